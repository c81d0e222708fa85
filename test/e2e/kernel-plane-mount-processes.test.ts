// The tests of mount-processes.test.ts over the kernel plane. Clipctl checks of each mount that the kernel serves it.
process.env.CLIP_PLANE = 'kernel';
await import('./mount-processes.test.js');
