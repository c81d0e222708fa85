import { describe, expect, it } from 'vitest';
import { keeperEnvironment, restoreExtraCertificates } from './environment.js';

describe('the environment of a keeper', () => {
  it('has no NODE_EXTRA_CA_CERTS when Node starts, and gets it back', () => {
    const env = keeperEnvironment({ PATH: '/bin', NODE_EXTRA_CA_CERTS: '/etc/ca.pem' });
    expect(env.NODE_EXTRA_CA_CERTS).toBeUndefined();
    const again = keeperEnvironment(env); // of the keeper that `clipctl daemon` becomes
    restoreExtraCertificates(again);
    expect(again).toEqual({ PATH: '/bin', NODE_EXTRA_CA_CERTS: '/etc/ca.pem' });
  });

  it('holds what clipd goes by, and no secret of the user who happened to start it', () => {
    const used = {
      HOME: '/root',
      https_proxy: 'http://p',
      NO_PROXY: 'x',
      AWS_PROFILE: 'a',
      CLIP_ROOT: '/r',
      LD_PRELOAD: 'l',
    };
    const env = keeperEnvironment({ ...used, CI_JOB_TOKEN: 'secret', NPM_TOKEN: 'secret', PGPASSWORD: 'secret' });
    expect(env).toEqual(used);
  });

  it('stays without certificates that were not set', () => {
    const env: NodeJS.ProcessEnv = {};
    restoreExtraCertificates(env);
    expect(env).toEqual({});
  });
});
