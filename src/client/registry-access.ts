/** What a mount request needs of oci/, as a module of its own, for the reason that archive-origin.ts gives. */
export { captureAccess } from '../oci/index.js';
