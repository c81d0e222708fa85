/**
 * The process that holds the mounts: `/dev/fuse`, mount(2), the list of mounts, and the server processes that it starts. As little as
 * possible belongs here, and nothing that reads from a mount or looks up a path on one. Never imports server/. Runs in the keeper, in
 * its one thread.
 */

export { becomeKeeper } from './run-keeper.js';
