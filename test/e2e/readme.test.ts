import { readFileSync } from 'node:fs';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Clipctl, runProgram } from '../support/clipctl.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { makeRichImage, type RichImage } from './rich-image.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');

/** The fenced code blocks of a Markdown text. */
function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map((match) => match[1]!);
}

/** The README's own words, with its registry and mount point replaced by ones that exist here. */
describe('the README', () => {
  let image: RichImage;
  let registry: TestRegistry;
  let clipctl: Clipctl;
  let here: (text: string) => string;

  beforeAll(async () => {
    image = makeRichImage();
    registry = await startRegistry();
    await registry.push(image.reference, 'py:latest');
    clipctl = await Clipctl.create();
    const at = await clipctl.place('mnt');
    here = (text) => text.replaceAll('registry.example.com', registry.host).replaceAll('/mnt/py', at);
  });
  afterAll(async () => {
    await clipctl?.close();
    await registry?.stop();
    image?.remove();
  });

  it('its commands work', async () => {
    const script = blocks(readme, '').find((block) => block.startsWith('clipctl index'))!;
    // The test image has no Python, so chroot runs its shell.
    const lines = here(script).replace("python3 -c 'import numpy'", "/bin/sh -c 'cat /etc/os-release'");
    const bin = clipctl.path('bin');
    await mkdir(bin);
    await symlink(path.join(root, 'bin/clipctl.js'), path.join(bin, 'clipctl'));
    const env = { ...clipctl.env, PATH: `${bin}:${process.env.PATH}` };
    const ran = await runProgram('sh', ['-euc', lines], { env, cwd: clipctl.directory });
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(ran.stdout).toContain('ID=clip-test');
    expect(clipctl.mounts()).toEqual([]);
  });

  it('its library example runs as it stands', async () => {
    const [example] = blocks(readme, 'ts');
    // Outside the checkout, so that 'clipfs' is the package as its users get it.
    const place = clipctl.path('user');
    await mkdir(path.join(place, 'node_modules'), { recursive: true });
    await symlink(root, path.join(place, 'node_modules/clipfs'));
    await writeFile(path.join(place, 'example.mjs'), here(example!));
    const ran = await runProgram(process.execPath, ['example.mjs'], { cwd: place, env: clipctl.env });
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(ran.stdout).toContain("'opaque'");
    expect(clipctl.mounts()).toEqual([]);
    await rm(place, { recursive: true });
  });

  it('every file it points to is there', () => {
    const links = [...readme.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map((match) => match[1]!);
    const missing = links.filter((link) => {
      try {
        readFileSync(path.join(root, link));
        return false;
      } catch {
        return true;
      }
    });
    expect(missing).toEqual([]);
  });
});
