import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { writeImage } from '../support/images.js';
import { file, tar } from '../support/tar.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const directory = mkdtempSync(path.join(tmpdir(), 'clip-install-'));
const made = path.join(directory, 'made');

/** What `npm run package` makes for this machine, with this machine's Node: nothing is fetched. */
beforeAll(() => {
  const args = ['scripts/package.mjs', '--node', process.execPath, '--fast', '--out', made];
  execFileSync(process.execPath, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
  const image = writeImage([tar(file('hello', 'from a clean root'))]);
  cpSync(image.reference.replace(/^oci:|:[^:/]*$/g, ''), path.join(directory, 'image'), { recursive: true });
  image.remove();
}, 300_000);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const product = (pattern: RegExp): string => path.join(made, readdirSync(made).find((name) => pattern.test(name))!);

/**
 * Runs a shell script in a root without Node and without this checkout: an overlay of this machine's own in a mount namespace of its
 * own. /t holds the image, and what `files` names.
 */
function inCleanRoot(
  script: string,
  files: readonly string[],
): { status: number | null; stdout: string; stderr: string } {
  const base = mkdtempSync(path.join(directory, 'root-'));
  const inside = path.join(base, 'm');
  const put = files.map((name) => `cp '${name}' '${inside}/t/'`).join('\n');
  const setUp = `
    set -e
    mount -t tmpfs tmpfs '${base}'
    mkdir '${base}/u' '${base}/w' '${inside}'
    mount -t overlay overlay -o 'lowerdir=/,upperdir=${base}/u,workdir=${base}/w' '${inside}'
    find '${inside}/usr/bin' '${inside}/usr/local/bin' -name 'node*' -exec rm -f {} +
    mount --rbind /dev '${inside}/dev'
    mount -t proc proc '${inside}/proc'
    for directory in run tmp; do mount -t tmpfs tmpfs '${inside}/'$directory; done
    mkdir -p '${inside}${root}' '${inside}/t'
    mount -t tmpfs tmpfs '${inside}${root}'
    cp -r '${path.join(directory, 'image')}' '${inside}/t/image'
    ${put}
    exec chroot '${inside}' /bin/sh /t/script`;
  writeFileSync(path.join(directory, 'script'), `set -e\nif command -v node; then exit 99; fi\n${script}`);
  const ran = spawnSync('unshare', ['--mount', '--propagation', 'private', '/bin/sh', '-c', setUp], {
    encoding: 'utf8',
    env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LANG: 'C' },
  });
  return { status: ran.status, stdout: ran.stdout, stderr: ran.stderr };
}

const script = path.join(directory, 'script');

/** Indexes the image, mounts it, reads from it, unmounts it. */
const USE = `
  clipctl --version
  clipctl index --image oci:/t/image --out /t/a.clip > /dev/null
  mkdir /t/mnt
  clipctl mount --clip /t/a.clip --at /t/mnt > /dev/null
  cat /t/mnt/hello; echo
  clipctl umount /t/mnt > /dev/null`;
const END = 'clipctl daemon --stop > /dev/null';

const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { version: string };
const USED = `${version}\nfrom a clean root\n`;

it('the Debian package installs, works, and goes', () => {
  const deb = product(/\.deb$/);
  const ran = inCleanRoot(
    `
    dpkg -i /t/${path.basename(deb)} > /dev/null
    ${USE}
    ${END}
    systemd-analyze verify /usr/lib/systemd/system/clipd.service
    export AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED=true
    /usr/lib/clip/node -e 'new (require("/usr/lib/clip/node_modules/@aws-sdk/client-s3").S3Client)({ region: "x" }); console.log(typeof require("/usr/lib/clip/node_modules/@aws-sdk/lib-storage").Upload)'
    find /usr/lib/clip ! -user root -o -perm /6022 ! -type l
    dpkg --purge clipfs > /dev/null
    ls -d /usr/lib/clip /usr/bin/clipctl /etc/default/clipd /var/cache/clip 2>/dev/null || echo gone`,
    [deb, script],
  );
  expect(ran).toEqual({ status: 0, stdout: `${USED}function\ngone\n`, stderr: '' });
});

it('the service can mount with the rights that its unit leaves it', () => {
  const deb = product(/\.deb$/);
  const unit = readFileSync(path.join(root, 'contrib/clipd.service'), 'utf8');
  const kept = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.split(' ');
  expect(unit).toMatch(/^NoNewPrivileges=yes$/m);
  const rights = ['-all', ...kept.map((name) => `+${name.replace(/^CAP_/, '').toLowerCase()}`)].join(',');
  const ran = inCleanRoot(
    `
    dpkg -i /t/${path.basename(deb)} > /dev/null
    setpriv --no-new-privs --inh-caps=-all --bounding-set=${rights} clipctl daemon > /dev/null 2>&1 &
    until clipctl health > /dev/null 2>&1; do sleep 0.1; kill -0 $!; done
    ${USE}
    kill $!
    wait $! || echo "clipd ended with $?"`,
    [deb, script],
  );
  expect(ran).toEqual({ status: 0, stdout: USED, stderr: '' });
});

it('the program in one file unpacks itself once, and works', () => {
  const program = product(/^clipctl-.*-linux-/);
  const ran = inCleanRoot(
    `
    mv /t/${path.basename(program)} /usr/bin/clipctl
    clipctl --version & clipctl --version & wait
    ls -A /var/lib/clip/program | wc -l
    ${USE}
    ${END}`,
    [program, script],
  );
  expect(ran).toEqual({ status: 0, stdout: `${version}\n${version}\n1\n${USED}`, stderr: '' });
});

it('the program in one file says what is wrong when it is cut off, and leaves nothing', () => {
  const whole = readFileSync(product(/^clipctl-.*-linux-/));
  const cut = path.join(directory, 'cut');
  writeFileSync(cut, whole.subarray(0, 1_000_000), { mode: 0o755 });
  const base = path.join(directory, 'programs');
  mkdirSync(base);
  const ran = spawnSync(cut, ['--version'], { encoding: 'utf8', env: { ...process.env, CLIP_PROGRAM_DIR: base } });
  expect(ran.status).toBe(1);
  expect(ran.stderr).toContain(`clipctl: cannot unpack into ${base}: is the disk full, or this file cut off?`);
  expect(readdirSync(base)).toEqual([]);
});
