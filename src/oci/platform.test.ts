import { describe, expect, test } from 'vitest';
import { formatPlatform, hostPlatform, parsePlatform, platformScore } from './platform.js';

describe('platforms', () => {
  test('parsing, with the aliases people write', () => {
    expect(parsePlatform('linux/amd64')).toEqual({ os: 'linux', architecture: 'amd64' });
    expect(parsePlatform('Linux/aarch64')).toEqual({ os: 'linux', architecture: 'arm64' });
    expect(parsePlatform('linux/arm/v7')).toEqual({ os: 'linux', architecture: 'arm', variant: 'v7' });
    expect(formatPlatform({ os: 'linux', architecture: 'arm', variant: 'v6' })).toBe('linux/arm/v6');
    for (const bad of ['', 'linux', 'linux/', 'a/b/c/d', 'linux/amd 64'])
      expect(() => parsePlatform(bad)).toThrow(/is not a platform/);
  });

  test('what runs where', () => {
    const score = (wanted: string, offered: string): number =>
      platformScore(parsePlatform(wanted), parsePlatform(offered));
    expect(score('linux/amd64', 'linux/amd64')).toBeGreaterThan(0);
    expect(score('linux/amd64', 'linux/amd64/v1')).toBe(score('linux/amd64', 'linux/amd64'));
    expect(score('linux/amd64', 'linux/amd64/v3')).toBe(0);
    expect(score('linux/amd64/v3', 'linux/amd64')).toBeGreaterThan(0);
    expect(score('linux/arm64', 'linux/arm64/v8')).toBeGreaterThan(0);
    expect(score('linux/arm', 'linux/arm/v7')).toBeGreaterThan(score('linux/arm', 'linux/arm/v6'));
    expect(score('linux/arm', 'linux/arm/v6')).toBeGreaterThan(score('linux/arm', 'linux/arm/v5'));
    expect(score('linux/arm/v6', 'linux/arm/v7')).toBe(0);
    expect(score('linux/amd64', 'windows/amd64')).toBe(0);
    expect(score('linux/amd64', 'linux/arm64')).toBe(0);
    expect(hostPlatform().os).toBe('linux');
  });
});
