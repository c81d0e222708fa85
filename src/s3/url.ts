import type { S3Location } from '../archive/index.js';
import { ClipError } from '../bytes/index.js';

/** Where S3 is, for a URL that does not say it. */
export interface S3Place {
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
}

/**
 * `s3://BUCKET/KEY[?endpoint=URL&region=R]`. The key is as in the AWS CLI: percent signs in it mean themselves.
 * @param place endpoint and region, if the URL names none
 * @throws ClipError BAD_REFERENCE
 */
export function parseS3Url(text: string, place: S3Place = {}): S3Location {
  const [, bucket = '', key = '', query = ''] = /^s3:\/\/([^/?]+)\/([^?]+)(?:\?(.*))?$/s.exec(text) ?? [];
  const parameters = new URLSearchParams(query);
  const unknown = [...parameters.keys()].find((name) => name !== 'endpoint' && name !== 'region');
  if (bucket === '' || key.endsWith('/') || unknown !== undefined) {
    throw new ClipError('BAD_REFERENCE', `${text} does not name an object in S3`, {
      hint: 's3://BUCKET/KEY, or s3://BUCKET/KEY?endpoint=URL&region=REGION',
    });
  }
  const endpoint = parameters.get('endpoint') ?? place.endpoint ?? '';
  if (endpoint !== '' && !/^https?:\/\/[^/]/.test(endpoint)) {
    throw new ClipError('BAD_REFERENCE', `the endpoint ${endpoint} is not the URL of a server`, {
      hint: 'for example http://minio.example.com:9000',
    });
  }
  const region = parameters.get('region') ?? place.region ?? '';
  return { bucket, key, endpoint, region, forcePathStyle: endpoint !== '' };
}
