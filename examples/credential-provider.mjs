// A credential provider: logins that a program hands out, and not the Docker config. Here they are read from a file that
// something else keeps up to date, as a cloud's agent does with short-lived passwords.
// Usage: node credential-provider.mjs IMAGE ARCHIVE LOGIN.json     (LOGIN.json: { "username": "…", "password": "…" })
import { readFile } from 'node:fs/promises';
import { createFromOCIImage } from 'clipfs';

const [imageRef, outputPath, loginFile] = process.argv.slice(2);

/** @type {import('clipfs').RegistryCredentialProvider} */
const credentials = {
  name: 'login file',
  /** Called when the registry demands a login, and again when it refuses what it was given. null: go on without one. */
  async getCredentials(registry, repository) {
    console.log(`${registry} asks for a login for ${repository}`);
    const { username, password } = JSON.parse(await readFile(loginFile, 'utf8'));
    return { username, password };
  },
};

const { size, identity } = await createFromOCIImage({ imageRef, outputPath, credentials });
console.log(`${outputPath}: ${size} bytes, ${identity}`);
