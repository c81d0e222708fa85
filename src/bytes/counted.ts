/** "1 mount", "2 mounts". @param one the noun, whose plural has an s more */
export function counted(number: number, one: string): string {
  return `${number} ${one}${number === 1 ? '' : 's'}`;
}
