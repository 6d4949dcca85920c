import { describe, expect, test } from 'vitest'
import type { ConfigEntry } from '../../src/agent/git-environment.ts'
import { LfsConfig } from '../../src/agent/lfs-config.ts'
import { defaultRemote, remoteAndRefs } from '../../src/cli/lfs-clone.ts'

const clone = (...entries: ConfigEntry[]) => ({ config: new LfsConfig(entries), head: 'refs/heads/main' })
const ORIGIN: ConfigEntry = ['remote.origin.url', 'https://a.example/r']
const BACKUP: ConfigEntry = ['remote.backup.url', 'https://b.example/r']

describe('the first word', () => {
  test('is a remote where one is called so, else a ref', () => {
    const two = clone(ORIGIN, BACKUP)
    expect(remoteAndRefs(['backup', 'main'], undefined, two, 'upload')).toEqual({
      remote: 'backup',
      refs: ['main'],
    })
    expect(remoteAndRefs(['main', 'backup'], undefined, two, 'upload')).toEqual({
      remote: 'origin',
      refs: ['main', 'backup'],
    })
    expect(remoteAndRefs([], undefined, two, 'upload')).toEqual({ remote: 'origin', refs: [] })
    const url = 'https://c.example/r'
    expect(remoteAndRefs([url, 'x'], undefined, two, 'download')).toEqual({ remote: url, refs: ['x'] })
  })

  test('is a ref after --remote, even one that is called like a remote', () => {
    const two = clone(ORIGIN, BACKUP)
    expect(remoteAndRefs(['backup'], 'origin', two, 'upload')).toEqual({ remote: 'origin', refs: ['backup'] })
    expect(() => remoteAndRefs([], 'nowhere', two, 'upload')).toThrow(/no remote is called nowhere/)
  })
})

test.each([
  ['the only one there is', [BACKUP], 'backup', 'backup'],
  ['origin of several', [BACKUP, ORIGIN], 'origin', 'origin'],
  ['that of the branch', [BACKUP, ORIGIN, ['branch.main.remote', 'backup']], 'backup', 'backup'],
  ['not this repository itself', [BACKUP, ORIGIN, ['branch.main.remote', '.']], 'origin', 'origin'],
  ['remote.lfsdefault', [BACKUP, ORIGIN, ['remote.lfsdefault', 'backup']], 'backup', 'backup'],
  ['remote.pushDefault for a push', [BACKUP, ORIGIN, ['remote.pushdefault', 'backup']], 'origin', 'backup'],
  [
    'branch.<name>.pushRemote before all others',
    [BACKUP, ORIGIN, ['remote.pushdefault', 'origin'], ['branch.main.pushremote', 'backup']],
    'origin',
    'backup',
  ],
] as [string, ConfigEntry[], string, string][])('without a word: %s', (_, entries, down, up) => {
  expect(defaultRemote(clone(...entries), 'download')).toBe(down)
  expect(defaultRemote(clone(...entries), 'upload')).toBe(up)
})
