import { describe, expect, it } from 'vitest';
import { holdBackExtraCertificates, restoreExtraCertificates } from './extra-certificates.js';

describe('NODE_EXTRA_CA_CERTS', () => {
  it('is not in the environment that Node starts with, and comes back', () => {
    const env: NodeJS.ProcessEnv = { PATH: '/bin', NODE_EXTRA_CA_CERTS: '/etc/ca.pem' };
    holdBackExtraCertificates(env);
    expect(env.NODE_EXTRA_CA_CERTS).toBeUndefined();
    holdBackExtraCertificates(env); // by the keeper that `clipctl daemon` becomes
    restoreExtraCertificates(env);
    expect(env).toEqual({ PATH: '/bin', NODE_EXTRA_CA_CERTS: '/etc/ca.pem' });
  });

  it('stays unset when it was', () => {
    const env: NodeJS.ProcessEnv = {};
    holdBackExtraCertificates(env);
    restoreExtraCertificates(env);
    expect(env).toEqual({});
  });
});
