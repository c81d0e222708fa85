/**
 * S3: reads an object by ranges, uploads one whole. What the bytes mean is not this folder's business. Runs in servers and
 * in clients, on the main thread; the SDK is loaded when it is first used.
 */
export {
  environmentS3Credentials,
  newS3Client,
  requireS3Sdk,
  type S3ClientOptions,
  type S3Credentials,
  s3Sdk,
  s3Uploads,
} from './client.js';
export { s3Error, s3Name } from './errors.js';
export { S3Source } from './source.js';
export { sha256OfFile, type Uploaded, type UploadOptions, uploadFile } from './upload.js';
export { parseS3Url, type S3Place } from './url.js';
