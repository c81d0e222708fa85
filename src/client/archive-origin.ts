/**
 * What a mount request needs of an archive, as a module of its own: importing check/ as a whole when it is needed would load all that
 * verifies and fetches, a tenth of a second on the way of every mount.
 */
export { placeOf, readArchiveOrigin } from '../check/index.js';
