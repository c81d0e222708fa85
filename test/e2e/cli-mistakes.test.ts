import { mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Clipctl, type Ran } from '../support/clipctl.js';
import { type TestImage, writeImage } from '../support/images.js';
import { eventually } from '../support/mounted.js';
import { startRegistry, type TestRegistry } from '../support/registry.js';
import { dir, file, tar } from '../support/tar.js';

// What people type who do not know clipctl yet, or mean another program. Each answer has the cause in its first line and the next step in
// the second.

let clip: Clipctl;
let image: TestImage;
let foreign: TestImage;
let registry: TestRegistry;
let secret: TestRegistry;
let archive: string;
let place: string;

beforeAll(async () => {
  clip = await Clipctl.create();
  image = writeImage([tar(dir('etc'), file('etc/hello', 'hello\n'))]);
  foreign = writeImage([tar(dir('etc'))], { architecture: 's390x' });
  registry = await startRegistry();
  secret = await startRegistry({ auth: 'basic' });
  await registry.push(image.reference, 'team/py:1');
  archive = clip.path('py.clip');
  place = await clip.place('mnt');
  await clip.ok('index', image.reference, '-o', archive);
  writeFileSync(clip.path('text.clip'), 'not an archive');
  writeFileSync(clip.path('empty.clip'), '');
  writeFileSync(clip.path('plain'), 'x');
  mkdirSync(clip.path('full/of'), { recursive: true });
});
afterAll(async () => {
  await registry?.stop();
  await secret?.stop();
  image?.remove();
  foreign?.remove();
  await clip?.close();
});

type Words = readonly string[];

/** [what was typed, exit code, cause, next step]. In the words, A is the archive, M a place to mount at, D the directory, R and S registries. */
const MISTAKES: readonly (readonly [string, number, RegExp, RegExp])[] = [
  // Which command?
  ['', 2, /^Usage: clipctl/, /./],
  ['moutn A M', 2, /unknown command 'moutn'/, /Did you mean mount\?/],
  ['unmount M', 2, /unknown command 'unmount'/, /Did you mean umount\?/],
  ['images', 2, /unknown command 'images'/, /clipctl archives ls/],
  ['exec c sh', 2, /unknown command 'exec'/, /runc exec ID COMMAND/],
  ['stop c', 2, /unknown command 'stop'/, /clipctl umount --cid ID --force/],
  ['rm c', 2, /unknown command 'rm'/, /clipctl umount --cid ID/],
  ['logs c', 2, /unknown command 'logs'/, /output\.log/],
  ['info', 2, /unknown command 'info'/, /clipctl doctor/],
  ['login R', 2, /unknown command 'login'/, /docker login/],
  ['build D', 2, /unknown command 'build'/, /build them/],
  ['-v', 2, /unknown option '-v'/, /clipctl --version/],
  ['mount -o ro A M', 2, /unknown option '-o'/, /mounts are read-only/],
  ['mount -t clip A M', 2, /unknown option '-t'/, /no type is needed/],
  ['ls -a A', 2, /unknown option '-a'/, /every file is listed/],
  ['cache clear', 2, /unknown command 'clear'/, /clipctl cache prune/],
  ['profile start M', 2, /unknown command 'start'/, /clipctl profile stop DIR/],
  ['stats M D', 2, /unexpected argument: /, /clipctl stats --help/],
  ['umount M D', 2, /unexpected argument: /, /clipctl umount --help/],
  ['ps --al', 2, /unknown option '--al'/, /clipctl ps --help/],
  ['pull', 2, /missing required argument 'image'/, /clipctl pull --help/],
  ['push A', 2, /is not in a registry/, /clipctl push FILE HOST\/NAME/],
  ['run -it A sh', 125, /-t needs a terminal/, /leave -t out/],
  ['run A nosuch', 127, /"nosuch" not found/, /clipctl ls/],
  ['run --rm A', 125, /the image names no command/, /give one/],
  ['index . -o D/new.clip', 6, /is not an image reference/, /oci:DIR/],
  ['ls A:/etc', 6, /is not an image reference/, /oci:DIR/],
  ['cat A /etc', 2, /is a directory, not a file/, /clipctl ls/],
  ['cat A', 2, /missing argument: path/, /usage: clipctl cat/],
  ['mount A M --workers=0', 2, /a whole number from 1 to 64 expected/, /clipctl mount --help/],
  ['create D/full', 2, /missing argument: file/, /usage: clipctl create/],
  ['umount /', 3, /is not a clip mount/, /umount\(8\)/],
  ['daemon start', 2, /unexpected argument: start/, /a mount starts one by itself/],
  ['daemon stop', 2, /unexpected argument: stop/, /clipctl daemon --stop/],
  ['mount --mountpoint M A', 2, /unknown option '--mountpoint'/, /clipctl mount --help/],
  ['cache', 2, /^Usage: clipctl cache/, /./],
  ['help moutn', 2, /unknown command 'moutn'/, /Did you mean mount\?/],
  ['help cache clear', 2, /unknown command 'clear'/, /clipctl cache prune/],
  ['index A', 2, /py\.clip is an archive, not an image/, /clipctl mount .*py\.clip DIR/],
  ['index mine.clip', 2, /mine\.clip is an archive, not an image/, /clipctl index IMAGE -o mine\.clip/],
  ['index R/team/py:1 D/new.clip', 2, /unexpected argument: .*new\.clip/, /clipctl index IMAGE -o .*new\.clip/],
  ['run A --net bridge', 127, /"--net" not found/, /stand before the image/],
  ['run A -- true', 127, /"--" not found/, /needs no --/],
  ['config set plane kernel', 2, /there is no command set plane kernel/, /CLIP_/],
  // What is missing?
  ['index', 2, /missing argument: image/, /usage: clipctl index .*<image>/],
  ['mount', 2, /a place to mount at is needed/, /clipctl mount FILE\|IMAGE DIR/],
  ['mount A', 2, /a place to mount at is needed/, /clipctl mount FILE\|IMAGE DIR/],
  ['ls', 2, /an archive or an image is needed/, /clipctl ls|--clip FILE/],
  ['run', 125, /no image is named/, /clipctl run/],
  ['umount', 2, /a mount point or a container is needed/, /clipctl umount DIR/],
  ['extract A', 2, /missing argument: dir/, /usage: clipctl extract/],
  // Which image?
  ['index R/team/pi:1 -o D/new.clip', 3, /team\/pi/, /check the name/],
  ['index R/team/py:2 -o D/new.clip', 3, /team\/py/, /it has these tags: 1/],
  ['index https://R/team/py:1 -o D/new.clip', 6, /begins with https:\/\//, /leave the scheme out/],
  ['index Team/Py -o D/new.clip', 6, /Team\/Py/, /lower/],
  ['index docker-archive:D/none.tar -o D/new.clip', 3, /there is no image archive .*none\.tar/, /check the path/],
  ['index oci:D/none -o D/new.clip', 3, /none/, /./],
  [
    'index --platform linux/arm64 FOREIGN -o D/new.clip',
    11,
    /is an image for linux\/s390x, not linux\/arm64/,
    /leave --platform out/,
  ],
  ['index --platform arm R/team/py:1 -o D/new.clip', 2, /"arm" is not a platform/, /linux\//],
  ['index S/a/b:1 --creds wrong:password -o D/new.clip', 7, /refuses the login|wants a login/, /--creds/],
  [
    'index S/a/b:1 --creds nopassword -o D/new.clip',
    2,
    /--creds takes USER:PASSWORD/,
    /REGISTRY_AUTH_FILE|docker login/,
  ],
  ['index S/a/b:1 -o D/new.clip', 7, /wants a login/, /docker login/],
  ['index R/team/py:1 -o D/none/new.clip', 3, /its directory does not exist/, /mkdir -p/],
  ['index R/team/py:1 --checkpoint 0 -o D/new.clip', 2, /0 MiB: a whole number from 1 to 64/, /--checkpoint/],
  // Which archive?
  ['mount D/none.clip M', 3, /none\.clip does not exist/, /clipctl index IMAGE --out .*none\.clip/],
  ['mount D/pi.clip M', 3, /archive .*pi\.clip does not exist/, /did you mean .*py\.clip\?/],
  ['mount D/py.clp M', 3, /archive .*py\.clp does not exist/, /did you mean .*py\.clip\?/],
  ['mount nothere.clp M', 3, /archive nothere\.clp does not exist/, /archives end in \.clip.*--image nothere\.clp/],
  ['ls nothere.cilp', 3, /archive nothere\.cilp does not exist/, /archives end in \.clip/],
  ['ls nothere.tar', 3, /archive nothere\.tar does not exist/, /docker-archive:nothere\.tar/],
  ['run nothere.clp true', 125, /archive nothere\.clp does not exist/, /archives end in \.clip/],
  ['run D/pi.clip true', 125, /archive .*pi\.clip does not exist/, /did you mean .*py\.clip\?/],
  ['diff A D/pi.clip', 3, /archive .*pi\.clip does not exist/, /did you mean .*py\.clip\?/],
  ['index nothere.tar', 2, /nothere\.tar is the name of a file/, /docker-archive:nothere\.tar/],
  ['mount --clip R/team/py M', 3, /team\/py does not exist/, /without --clip, or by --image R\/team\/py/],
  ['mount D/text.clip M', 4, /text\.clip/, /clipctl index/],
  ['mount D/empty.clip M', 4, /empty\.clip/, /clipctl index/],
  ['ls D', 4, /is not a file/, /clipctl index/],
  ['ls A /no/such', 3, /no \/no\/such in /, /ls -R/],
  ['mount A --image R/team/py:1 M', 2, /unexpected|one of them only|too many/, /./],
  ['mount https://R/team/py:1 M', 6, /begins with https:\/\//, /leave the scheme out/],
  // Where?
  ['mount M A', 3, /py\.clip is not a directory/, /comes first/],
  ['umount mnt:[1]/x', 3, /mnt:\[1\]\/x is not mounted/, /clipctl ps/],
  ['mount A D/nowhere', 3, /nowhere does not exist/, /mkdir|make it/],
  ['mount A D/plain', 3, /plain is not a directory/, /give a directory/],
  ['umount D/full', 3, /full/, /clipctl ps/],
  ['unpack A D/full', 14, /is not empty/, /give a new directory/],
  ['prefetch D/full', 3, /no clipd runs|is not a clip mount/, /clipctl mount|clipctl ps/],
  ['mount A M --cache-size lots', 2, /--cache-size/, /500M or 20G|--help/],
  ['mount A M --read-timeout 0', 2, /--read-timeout/, /--help/],
  ['stats --root D/none', 3, /no clipd runs with root .*none/, /clipctl mount/],
  ['run A --clip', 127, /"--clip" not found/, /stand before the image/],
  ['verify A --from disk', 2, /--from/, /registry, cache|--help/],
  ['push A elsewhere.example/py', 9, /elsewhere\.example cannot be resolved/, /check the spelling of the registry/],
  ['optimize A', 3, /no profile of .* is known/, /run the program/],
  ['optimize A --profile p.json -- true', 2, /optimize takes/, /clipctl/],
  ['profile stop M', 3, /is not a clip mount/, /clipctl ps/],
];

function words(line: string): Words {
  const replaced: Readonly<Record<string, string>> = {
    A: archive,
    M: place,
    D: clip.directory,
    R: registry.host,
    S: secret.host,
    FOREIGN: foreign.reference,
  };
  return line
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => word.replace(/^([A-Z]+)(?=$|\/)|(?<=:)D(?=\/)|(?<=\/\/)R(?=\/)/, (name) => replaced[name] ?? name));
}

describe('mistakes', () => {
  it.each(MISTAKES)('clipctl %s', async (line, code, cause, next) => {
    const ran = await clip.run(words(line));
    const text = ran.stderr.replaceAll(registry.host, 'R');
    const [first = '', ...rest] = text.split('\n');
    expect([ran.code, ran.stdout, first]).toEqual([code, '', expect.stringMatching(cause)]);
    expect(rest.join('\n')).toMatch(next);
    expect(text).not.toMatch(/\bat .*\.js:|undefined|\[object/);
  });
});

describe('a name without a registry', () => {
  // Docker Hub is out of reach by a proxy that does not answer.
  const unreachable = { env: { HTTPS_PROXY: 'http://127.0.0.1:9', NO_PROXY: '' } };

  it.each(['ls', 'index', 'pull', 'run'])(
    '%s: where it leads nowhere the error says what it means',
    async (command) => {
      const ran = await clip.run([command, 'python:3', ...(command === 'run' ? ['true'] : [])], {
        ...unreachable,
        cwd: clip.directory,
      });
      expect(ran.code).toBe(command === 'run' ? 125 : 9);
      expect(ran.stderr).toMatch(/\n {2}python:3 means the image docker\.io\/library\/python:3: ./);
    },
  );

  it('and which archive here may be meant', async () => {
    const ran = await clip.run(['mount', 'py', place], { ...unreachable, cwd: clip.directory });
    expect(ran.stderr).toMatch(
      /\n {2}py means the image docker\.io\/library\/py:latest: did you mean the file py\.clip\?/,
    );
  });

  it('is not explained to those who wrote it out', async () => {
    const ran = await clip.run(['ls', 'docker.io/library/python:3'], unreachable);
    expect([ran.code, ran.stderr]).toEqual([9, expect.not.stringMatching('means the image')]);
  });
});

describe('answers that were misleading', () => {
  it('verify --from cache with nothing cached does not say that all is well', async () => {
    const ran: Ran = await clip.ok('verify', archive, '--from', 'cache');
    expect(ran.stdout).toMatch(/: 1 span, none cached: nothing was checked/);
  });

  it('prefetch --cancel leaves what mount --fill fetches alone', async () => {
    const layer = tar(...Array.from({ length: 20 }, (_, i) => file(`f${i}`, Buffer.alloc(1 << 20, i + 1))));
    const big = writeImage([layer], { compression: 'none' });
    try {
      const at = await clip.place('filled');
      await clip.ok('index', big.reference, '-o', clip.path('big.clip'));
      await clip.ok('mount', clip.path('big.clip'), at, '--fill', '--no-prefetch');
      await clip.ok('prefetch', at, '--cancel');
      const states = async (): Promise<readonly { what: string; state: string }[]> =>
        clip.json('prefetch', at, '--status');
      await eventually(async () => (await states()).some(({ state }) => state === 'done'));
      expect((await states()).map(({ state }) => state)).not.toContain('cancelled');
      await clip.ok('umount', at);
    } finally {
      big.remove();
    }
  });

  it('amounts have the unit that fits them', async () => {
    expect((await clip.ok('cache', 'stat')).stdout).not.toMatch(/\d{4,}\.\d MB|\b0\.0 MB/);
    expect((await clip.ok('cache', 'prune')).stdout).toMatch(/^freed \d+(?:\.\d)? (?:B|kB|MB),/);
  });

  it('clipctl help COMMAND names the command', async () => {
    const ran = await clip.run(['mount', '--frobnicate']);
    expect(ran.stderr).toContain('clipctl mount --help');
    expect(ran.stderr).not.toContain('COMMAND');
  });

  it('without a terminal a long command tells its progress', async () => {
    const ran = await clip.run(['index', image.reference, '-o', clip.path('told.clip'), '--progress', 'plain']);
    expect(ran.stderr).toMatch(/^clipctl: .* of \d+ B/);
    expect((await clip.run(['index', image.reference, '-o', clip.path('told.clip'), '-q'])).stderr).toBe('');
  });
});
