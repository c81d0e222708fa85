import { type DescribedCommand, type DescribedOption, leavesOf } from './command-tree.js';

export const SHELLS = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof SHELLS)[number];

/** Options whose value is a file or directory: by the name of the value. */
const isPath = ({ value }: DescribedOption): boolean => /<(file|dir|path|src:dst|program)>/.test(value ?? '');

const flagsOf = ({ options }: DescribedCommand): string[] =>
  options.flatMap(({ short, long }) => (short === null || short === long ? [long] : [short, long])).concat('--help');

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** Each command with its words, and those words once more for each alias. */
function named(program: DescribedCommand): { readonly words: string; readonly command: DescribedCommand }[] {
  return leavesOf(program).flatMap((command) => {
    const parts = command.words.split(' ');
    const aliases = command.aliases.map((alias) => [...parts.slice(0, -1), alias].join(' '));
    return [command.words, ...aliases].map((words) => ({ words, command }));
  });
}

const groupsOf = (program: DescribedCommand): DescribedCommand[] =>
  program.commands.filter(({ commands }) => commands.length > 0);

/** The first words of all commands, sorted as they are registered. */
const firstWords = (program: DescribedCommand): string[] => [...program.commands.map(({ words }) => words), 'help'];

function bash(program: DescribedCommand): string {
  const groups = groupsOf(program);
  const valued = new Map<string, string>();
  for (const { options } of leavesOf(program)) {
    for (const option of options) {
      if (option.value === null) continue;
      const action =
        option.choices.length > 0
          ? `COMPREPLY=($(compgen -W ${quoted(option.choices.join(' '))} -- "$cur"))`
          : isPath(option)
            ? 'COMPREPLY=($(compgen -f -- "$cur"))'
            : 'COMPREPLY=()';
      for (const flag of [option.long, option.short]) if (flag !== null) valued.set(flag, action);
    }
  }
  const byAction = new Map<string, string[]>();
  for (const [flag, action] of valued) byAction.set(action, [...(byAction.get(action) ?? []), flag]);
  return [
    '# bash completion of clipctl, made by: clipctl completion bash',
    '_clipctl() {',
    '  local cur prev command word i',
    `  cur=\${COMP_WORDS[COMP_CWORD]}`,
    `  prev=\${COMP_WORDS[COMP_CWORD-1]}`,
    '  COMPREPLY=()',
    '  command=',
    '  for ((i = 1; i < COMP_CWORD; i++)); do',
    `    word=\${COMP_WORDS[i]}`,
    '    case $word in',
    '      -*) continue ;;',
    '    esac',
    '    case $command in',
    `      '') command=$word ;;`,
    ...(groups.length === 0
      ? []
      : [`      ${groups.map(({ words }) => words).join('|')}) command="$command $word" ;;`]),
    '    esac',
    '  done',
    '  case $prev in',
    ...[...byAction].map(([action, flags]) => `    ${flags.join('|')}) ${action}; return ;;`),
    '  esac',
    '  case $command in',
    `    '') COMPREPLY=($(compgen -W ${quoted(`${firstWords(program).join(' ')} --help --version`)} -- "$cur")) ;;`,
    `    help) COMPREPLY=($(compgen -W ${quoted(firstWords(program).join(' '))} -- "$cur")) ;;`,
    ...groups.map(
      ({ words, commands }) =>
        `    ${quoted(words)}) COMPREPLY=($(compgen -W ${quoted(commands.map((sub) => sub.words.split(' ').at(-1)).join(' '))} -- "$cur")) ;;`,
    ),
    ...named(program).map(
      ({ words, command }) =>
        `    ${quoted(words)}) [[ $cur == -* ]] && COMPREPLY=($(compgen -W ${quoted(flagsOf(command).join(' '))} -- "$cur")) || COMPREPLY=($(compgen -f -- "$cur")) ;;`,
    ),
    '  esac',
    '}',
    'complete -o filenames -F _clipctl clipctl',
    '',
  ].join('\n');
}

/** In _arguments, a colon ends a message and brackets a description. */
const zshText = (text: string): string => text.replaceAll(/[[\]:\\]/g, '\\$&').replaceAll("'", "'\\''");

function zshOption(option: DescribedOption): string[] {
  const values = option.choices.length > 0 ? `(${option.choices.join(' ')})` : isPath(option) ? '_files' : ' ';
  const value = option.value === null ? '' : `:${zshText(option.value.replaceAll(/[<>[\]]/g, ''))}:${values}`;
  const flags = option.short === null ? [option.long] : [option.short, option.long];
  return flags.map((flag) => `'*${flag}[${zshText(option.description)}]${value}'`);
}

function zsh(program: DescribedCommand): string {
  const groups = groupsOf(program);
  const list = (commands: readonly DescribedCommand[]): string[] =>
    commands.map(({ words, description }) => `      '${words.split(' ').at(-1)}:${zshText(description)}'`);
  return [
    '#compdef clipctl',
    '# zsh completion of clipctl, made by: clipctl completion zsh',
    '_clipctl() {',
    '  local command',
    '  local -a commands',
    '  if (( CURRENT == 2 )); then',
    '    commands=(',
    ...list(program.commands),
    '    )',
    "    _describe 'command' commands",
    '    return',
    '  fi',
    '  command=$words[2]',
    '  shift words; (( CURRENT-- ))',
    ...groups.flatMap(({ words, commands }) => [
      `  if [[ $command == ${words} ]]; then`,
      '    if (( CURRENT == 2 )); then',
      '      commands=(',
      ...list(commands),
      '      )',
      "      _describe 'command' commands",
      '      return',
      '    fi',
      '    command="$command $words[2]"',
      '    shift words; (( CURRENT-- ))',
      '  fi',
    ]),
    '  case $command in',
    ...named(program).flatMap(({ words, command }) => [
      `    ${quoted(words)})`,
      `      _arguments ${[...command.options.flatMap(zshOption), "'--help[show help]'", "'*:file:_files'"].join(' \\\n        ')} ;;`,
    ]),
    '  esac',
    '}',
    // Loaded by compinit it is the body of the function itself; sourced it registers one.
    'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _clipctl "$@"; else compdef _clipctl clipctl; fi',
    '',
  ].join('\n');
}

function fish(program: DescribedCommand): string {
  const lines = [
    '# fish completion of clipctl, made by: clipctl completion fish',
    'function __clipctl_words',
    "    set -l words (commandline -opc | string match -v -- '-*')",
    '    echo "$words[2..-1] " | string match -q -- "$argv *"',
    'end',
    'function __clipctl_needs_command',
    "    test (count (commandline -opc | string match -v -- '-*')) -eq $argv[1]",
    'end',
  ];
  for (const { words, description } of program.commands) {
    lines.push(`complete -c clipctl -f -n '__clipctl_needs_command 1' -a ${words} -d ${quoted(description)}`);
  }
  for (const group of groupsOf(program)) {
    for (const { words, description } of group.commands) {
      const last = words.split(' ').at(-1)!;
      lines.push(
        `complete -c clipctl -f -n '__clipctl_needs_command 2; and __clipctl_words ${group.words}' -a ${last} -d ${quoted(description)}`,
      );
    }
  }
  for (const { words, command } of named(program)) {
    for (const option of command.options) {
      const short = option.short === null ? '' : ` -s ${option.short.slice(1)}`;
      const value =
        option.value === null
          ? ''
          : option.choices.length > 0
            ? ` -x -a ${quoted(option.choices.join(' '))}`
            : isPath(option)
              ? ' -r -F'
              : ' -x';
      lines.push(
        `complete -c clipctl -n '__clipctl_words ${words}'${short} -l ${option.long.slice(2)}${value} -d ${quoted(option.description)}`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

/** A script that completes clipctl's commands, options and their values. */
export function completionScript(shell: Shell, program: DescribedCommand): string {
  return { bash, zsh, fish }[shell](program);
}
