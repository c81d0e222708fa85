import { ClipError } from '../bytes/index.js';

/** The ids that a container's first process runs with. */
export interface ContainerUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  /** Of the passwd entry; null when there is none. */
  readonly home: string | null;
}

/** The largest id that Docker and the runtimes take (moby/sys/user: maxID). */
const MAX_ID = 2 ** 31 - 1;

interface PasswdEntry {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

interface GroupEntry {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** passwd(5) and group(5): lines of fields between colons. A line that is none is skipped, as the C library does. */
function* lines(text: string, fields: number): Generator<string[]> {
  for (const line of text.split('\n')) {
    const parts = line.trim().split(':');
    if (parts.length >= fields && parts[0] !== '' && !line.startsWith('#')) yield parts;
  }
}

function parseId(text: string | undefined): number | null {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return null;
  const id = Number(text);
  return id <= MAX_ID ? id : null;
}

function* passwdEntries(text: string): Generator<PasswdEntry> {
  for (const [name, , uidText, gidText, , home] of lines(text, 6)) {
    const [uid, gid] = [parseId(uidText), parseId(gidText)];
    if (uid !== null && gid !== null) yield { name: name!, uid, gid, home: home! };
  }
}

function* groupEntries(text: string): Generator<GroupEntry> {
  for (const [name, , gidText, members] of lines(text, 4)) {
    const gid = parseId(gidText);
    if (gid !== null) yield { name: name!, gid, members: members!.split(',') };
  }
}

function first<T>(entries: Iterable<T>, wanted: (entry: T) => boolean): T | null {
  for (const entry of entries) if (wanted(entry)) return entry;
  return null;
}

function notFound(kind: 'user' | 'group', name: string, file: string): ClipError {
  return new ClipError('NOT_FOUND', `the image has no ${kind} ${JSON.stringify(name)} (no entry in its ${file})`, {
    hint: `give a number, or a name that the image's ${file} has: --user USER[:GROUP]`,
  });
}

/**
 * Finds what `USER` in an image's config, or `--user`, stands for: a name or a number, and after a colon a group. A number need
 * not be in the files; its group is then 0. Without a group, the groups that list the user are added (as Docker does).
 * @param passwd the image's /etc/passwd, "" when it has none; `group` its /etc/group
 * @throws ClipError NOT_FOUND when a name is in neither file
 */
export function resolveUser(wanted: string, passwd: string, group: string): ContainerUser {
  const colon = wanted.indexOf(':');
  const userText = (colon < 0 ? wanted : wanted.slice(0, colon)) || '0';
  const groupText = colon < 0 ? '' : wanted.slice(colon + 1);
  const userId = parseId(userText);
  const entry = first(passwdEntries(passwd), ({ name, uid }) => name === userText || uid === userId);
  if (entry === null && userId === null) throw notFound('user', userText, '/etc/passwd');
  const uid = entry?.uid ?? userId!;
  const home = entry?.home ?? null;
  if (groupText !== '') {
    const groupId = parseId(groupText);
    const found = first(groupEntries(group), ({ name, gid }) => name === groupText || gid === groupId);
    if (found === null && groupId === null) throw notFound('group', groupText, '/etc/group');
    return { uid, gid: found?.gid ?? groupId!, additionalGids: [], home };
  }
  const gid = entry?.gid ?? 0;
  const additional = new Set<number>();
  for (const { gid: other, members } of groupEntries(group)) {
    if (entry !== null && other !== gid && members.includes(entry.name)) additional.add(other);
  }
  return { uid, gid, additionalGids: [...additional], home };
}
