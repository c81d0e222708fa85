import { deflateRawSync } from 'node:zlib';

/** A zip with META-INF/ and a manifest, in latin1; `padding` bytes lie between them and the directory. */
export function jar(manifest: string, method: 0 | 8, padding = 0): string {
  const name = 'META-INF/MANIFEST.MF';
  const data = method === 8 ? deflateRawSync(manifest) : Buffer.from(manifest);
  const local = (name: string, method: number, stored: number): Buffer => {
    const header = Buffer.alloc(30 + name.length);
    header.writeUInt32LE(0x04034b50);
    header.writeUInt16LE(method, 8);
    header.writeUInt32LE(stored, 18);
    header.writeUInt16LE(name.length, 26);
    header.write(name, 30);
    return header;
  };
  const files = Buffer.concat([
    local('META-INF/', 0, 0),
    local(name, method, data.length),
    data,
    Buffer.alloc(padding, 'x'),
  ]);
  const directory = Buffer.alloc(46 + name.length);
  directory.writeUInt32LE(0x02014b50);
  directory.write(name, 46);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(files.length, 16);
  return Buffer.concat([files, directory, end]).toString('latin1');
}
