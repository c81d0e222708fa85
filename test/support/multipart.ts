import type { BlobRange } from '../../src/oci/byte-ranges.js';

/** How a server writes multipart/byteranges. */
export interface MultipartStyle {
  readonly boundary: string;
  /** Before the first delimiter. */
  readonly lead: string;
  /** Behind a delimiter, in its line. */
  readonly padding: string;
  /** Of a part, each with its line end. */
  readonly fields: (range: string) => string;
  /** Behind the last delimiter. */
  readonly epilogue: string;
}

/** As Go's net/http does. */
export const PLAIN_STYLE: MultipartStyle = {
  boundary: '3d6b6a416f9b5',
  lead: '',
  padding: '',
  fields: (range) => `Content-Range: ${range}\r\nContent-Type: application/octet-stream\r\n`,
  epilogue: '\r\n',
};

/** The body of a 206 answer with these ranges of the blob as parts (RFC 9110 §14.6). */
export function multipartAnswer(blob: Uint8Array, ranges: readonly BlobRange[], style: MultipartStyle): Buffer {
  const pieces = ranges.flatMap(({ start, length }, i) => {
    const fields = style.fields(`bytes ${start}-${start + length - 1}/${blob.length}`);
    const head = `${i === 0 ? style.lead : '\r\n'}--${style.boundary}${style.padding}\r\n${fields}\r\n`;
    return [Buffer.from(head, 'latin1'), blob.subarray(start, start + length)];
  });
  return Buffer.concat([...pieces, Buffer.from(`\r\n--${style.boundary}--${style.epilogue}`)]);
}
