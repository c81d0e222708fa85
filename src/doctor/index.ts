/**
 * What `clipctl doctor` examines: the kernel, FUSE, programs, limits, and the disk of the cache. Each finding says what was found, and
 * how to get what is missing. How a registry answers is examined by oci/. Nothing is changed on the machine: a trial mount is taken away
 * at once. Runs in the client.
 */

export { type Finding, type FindingStatus, works } from './finding.js';
export { examineMachine, type MachineOptions } from './machine.js';
