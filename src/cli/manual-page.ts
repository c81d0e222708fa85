import { EXIT_CODES } from '../bytes/index.js';
import { type DescribedCommand, type DescribedOption, leavesOf } from './command-tree.js';

/** groff_man(7): a backslash and a hyphen are escaped, and no line may begin with a dot or an apostrophe. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^([.'])/gm, '\\&$1');
}

/** As they are shown once, with the commands' own options beside each. */
function commonOptions(program: DescribedCommand): DescribedOption[] {
  const [first, ...others] = leavesOf(program);
  return first!.options.filter(({ long }) =>
    others.every(({ options }) => options.some((option) => option.long === long)),
  );
}

function optionLines({ short, long, value, choices, description }: DescribedOption): string[] {
  const flags = [short, long].filter((flag): flag is string => flag !== null);
  const named = [...new Set(flags)].map((flag) => `\\fB${roff(flag)}\\fR`).join(', ');
  const taken = value === null ? '' : ` \\fI${roff(value.replaceAll(/[<>]/g, ''))}\\fR`;
  const listed = choices.length === 0 ? '' : ` (${choices.join(', ')})`;
  return ['.TP', `${named}${taken}`, roff(`${description}${listed}`)];
}

/** The manual page of clipctl, in section 1. */
export function manualPage(program: DescribedCommand, version: string): string {
  const common = commonOptions(program);
  const isCommon = ({ long }: DescribedOption): boolean => common.some((option) => option.long === long);
  const commands = leavesOf(program).flatMap(({ words, aliases, description, operands, options }) => {
    const own = options.filter((option) => !isCommon(option));
    const usage = [
      ...operands.map((operand) => `\\fI${roff(operand)}\\fR`),
      ...(own.length > 0 ? ['[\\fIoption\\fR...]'] : []),
    ];
    return [
      `.SS "clipctl ${roff(words)}"`,
      `\\fBclipctl ${roff(words)}\\fR ${usage.join(' ')}`.trimEnd(),
      '.PP',
      roff(`${description[0]!.toUpperCase()}${description.slice(1)}.`),
      ...(aliases.length === 0 ? [] : ['.PP', `Also: ${roff(aliases.join(', '))}.`]),
      ...own.flatMap(optionLines),
    ];
  });
  return [
    `.TH CLIPCTL 1 "" "clip ${roff(version)}" "User Commands"`,
    '.SH NAME',
    'clipctl \\- run container images without pulling them',
    '.SH SYNOPSIS',
    '\\fBclipctl\\fR \\fIcommand\\fR [\\fIargument\\fR...]',
    '.SH DESCRIPTION',
    'clip reads an unmodified OCI image once and writes a small index beside it. From then on the image mounts',
    'in a fraction of a second, and only the bytes that a program touches are fetched from the registry.',
    '.PP',
    'Results go to standard output; progress, warnings and errors go to standard error.',
    '.SH OPTIONS',
    'Every command takes these:',
    ...common.flatMap(optionLines),
    '.SH COMMANDS',
    ...commands,
    '.SH EXIT STATUS',
    '.TP',
    '0',
    'Done.',
    '.TP',
    '1',
    'Failed: standard error says what and why, and what to do next.',
    '.TP',
    '2',
    'Usage: an unknown command or option, or a value out of range.',
    '.TP',
    `3 to ${Math.max(...Object.values(EXIT_CODES))}`,
    'Failed for a reason that has a number of its own; cli.md lists them. clipctl run has 125 to 127 instead.',
    '.TP',
    '128 + signal',
    'Ended by that signal; nothing is left mounted or half written, but for what clipctl unpack goes on with.',
    '.SH SEE ALSO',
    '.BR runc (8),',
    '.BR fusermount3 (1)',
    '.PP',
    'The pages of documentation that come with clip, cli.md and operations.md first.',
    '',
  ].join('\n');
}
