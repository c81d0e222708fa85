import { expect, test } from 'vitest';
import { newS3Client } from './client.js';

const credentials = { accessKeyId: 'a', secretAccessKey: 'b' };

// Attack: an archive names a cloud's metadata service as the endpoint of its data.
test.each([
  'http://169.254.169.254',
  'http://[fe80::1]:80/',
  'http://[::ffff:169.254.169.254]/',
  'http://168.63.129.16',
])('data at the link-local address %s is refused before a request is made', async (endpoint) => {
  await expect(newS3Client({ endpoint, credentials })).rejects.toMatchObject({
    code: 'NETWORK',
    message: expect.stringMatching(/the data of an archive may not lie at .*link-local address/) as string,
  });
});

test('data on this machine, or at a name, is not refused', async () => {
  for (const endpoint of ['http://127.0.0.1:9000', 'https://s3.example.com', undefined]) {
    (await newS3Client({ endpoint, credentials })).destroy();
  }
});
