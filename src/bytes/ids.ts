declare const kind: unique symbol;

/** A number that names one kind of thing. An id of one kind is no id of another; a number that is computed may become any. No cost at run time. */
type Id<Kind extends string> = number & { readonly [kind]?: Kind };

/** An inode of an EROFS image: its position in units of 32 bytes from the meta block address (docs/internals/erofs.md, "Inodes"). */
export type Nid = Id<'nid'>;
/** A layer's place in its image, 0 the lowest. */
export type LayerIndex = Id<'layer index'>;
/** A layer that this process has open, which several images may share. */
export type LayerId = Id<'layer id'>;
/** A span's place in its layer. */
export type SpanIndex = Id<'span index'>;
/** A FUSE connection that the keeper holds. */
export type ConnectionId = Id<'connection'>;
