import type { References } from '../../archive/index.js';
import type { LayerIndex, Nid } from '../../bytes/index.js';
import type { LayerClaim } from '../layer-claim.js';

/** A stretch of a layer, or of a hole (layer −1). */
export interface LayerPiece {
  /** Index into the image's layers. */
  readonly layer: LayerIndex;
  readonly layerOffset: number;
  readonly length: number;
}

/** A stretch of a file. */
export interface FileStretch {
  readonly offset: number;
  readonly length: number;
}

/** What following needs of an image. */
export interface FollowedImage {
  readonly references: References;
  /** By layer index. */
  readonly layers: readonly LayerClaim[];
  /** Where bytes of a file lie, its end respected: holes as pieces of layer −1. @throws FormatError */
  map(
    nid: Nid,
    offset: number,
    length: number,
    visit: (layer: LayerIndex, offset: number, length: number) => void,
  ): void;
  /** Bytes that fit without pushing out what mounts use. */
  hasRoom(bytes: number): boolean;
  /** The archive's tree makes no sense: nothing is followed any more. */
  onFault(error: unknown): void;
}
