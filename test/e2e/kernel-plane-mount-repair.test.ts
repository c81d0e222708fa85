// The tests of mount-repair.test.ts over the kernel plane. Clipctl checks of each mount that the kernel serves it.
process.env.CLIP_PLANE = 'kernel';
await import('./mount-repair.test.js');
