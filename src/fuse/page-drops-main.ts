/** The program behind dropPages: ranges on standard input, the connection as descriptor 3. */
import { readFileSync } from 'node:fs';
import { dropFilePages } from './replies.js';

const CONNECTION = 3;

const input = readFileSync(0);
const numbers = new Float64Array(input.buffer.slice(input.byteOffset, input.byteOffset + input.length));
for (let i = 0; i + 2 < numbers.length; i += 3)
  dropFilePages(CONNECTION, numbers[i]!, numbers[i + 1]!, numbers[i + 2]!);
