import { describe, expect, test } from 'vitest'
import type { ConfigEntry } from '../../src/agent/git-environment.ts'
import { isSafeKey, LfsConfig } from '../../src/agent/lfs-config.ts'
import { findEndpoint, printEndpoint } from '../../src/agent/lfs-endpoint.ts'
import { specificity } from '../../src/agent/url-match.ts'

const config = (git: Record<string, string>, repository: Record<string, string> = {}): LfsConfig =>
  new LfsConfig(Object.entries(git) as ConfigEntry[], Object.entries(repository) as ConfigEntry[])

const found = (
  git: Record<string, string>,
  operation: 'upload' | 'download' = 'download',
  remote = 'origin',
): string => printEndpoint(findEndpoint(config(git), operation, remote))

const ORIGIN = { 'remote.origin.url': 'https://git.example/org/repo' }

describe('the order in which an endpoint is looked for', () => {
  test.each([
    ['the remote itself', ORIGIN, 'https://git.example/org/repo.git/info/lfs'],
    [
      'a remote that ends with .git',
      { 'remote.origin.url': 'https://git.example/org/repo.git' },
      'https://git.example/org/repo.git/info/lfs',
    ],
    [
      'a remote that ends with a slash',
      { 'remote.origin.url': 'https://git.example/org/repo/' },
      'https://git.example/org/repo.git/info/lfs',
    ],
    [
      'remote.<name>.lfsurl before the remote',
      { ...ORIGIN, 'remote.origin.lfsurl': 'https://lfs.example/a' },
      'https://lfs.example/a',
    ],
    [
      'lfs.url before that',
      { ...ORIGIN, 'remote.origin.lfsurl': 'https://lfs.example/a', 'lfs.url': 'https://lfs.example/b/' },
      'https://lfs.example/b',
    ],
    [
      'lfs.pushurl is not for downloads',
      { ...ORIGIN, 'lfs.pushurl': 'https://lfs.example/p' },
      'https://git.example/org/repo.git/info/lfs',
    ],
  ])('%s', (_, git, expected) => {
    expect(found(git)).toBe(expected)
  })

  test.each([
    [
      'lfs.pushurl',
      { 'lfs.url': 'https://lfs.example/b', 'lfs.pushurl': 'https://lfs.example/p' },
      'https://lfs.example/p',
    ],
    [
      'remote.<name>.lfspushurl',
      {
        ...ORIGIN,
        'remote.origin.lfsurl': 'https://lfs.example/a',
        'remote.origin.lfspushurl': 'https://lfs.example/p',
      },
      'https://lfs.example/p',
    ],
    [
      'remote.<name>.pushurl',
      { ...ORIGIN, 'remote.origin.pushurl': 'https://push.example/r' },
      'https://push.example/r.git/info/lfs',
    ],
  ])('uploads: %s', (_, git, expected) => {
    expect(found(git, 'upload')).toBe(expected)
  })

  test('another remote has its own; one that says nothing has origin’s', () => {
    const git = { ...ORIGIN, 'remote.b.url': 'https://b.example/x.git' }
    expect(found(git, 'download', 'b')).toBe('https://b.example/x.git/info/lfs')
    expect(found(git, 'download', 'c')).toBe('https://git.example/org/repo.git/info/lfs')
    expect(found(git, 'download', 'https://d.example/y')).toBe('https://d.example/y.git/info/lfs')
  })

  test('none at all says what to do', () => {
    expect(() => findEndpoint(config({}), 'download', 'origin')).toThrow(/timone init URL/)
  })
})

describe('kinds of address', () => {
  test.each([
    ['ssh://git@host.example:2222/org/repo.git', 'git@host.example', '2222', '/org/repo.git'],
    ['git@host.example:org/repo.git', 'git@host.example', undefined, 'org/repo.git'],
    ['host.example:org/repo', 'host.example', undefined, 'org/repo'],
    ['[git@host.example:2222]:org/repo.git', 'git@host.example', '2222', 'org/repo.git'],
    ['git+ssh://host.example/r', 'host.example', undefined, '/r'],
  ])('%s is asked over ssh', (url, host, port, path) => {
    const endpoint = findEndpoint(config({ 'remote.origin.url': url }), 'download', 'origin')
    expect(endpoint).toMatchObject({ kind: 'ssh', host, port, path })
    expect((endpoint as { url: URL }).url.href).toMatch(/^https:\/\/host\.example\/.*\.git\/info\/lfs$/)
  })

  test.each([
    '/srv/git/repo.git',
    '../repo',
    'file:///srv/repo.git',
    'C:\\repo',
    'caching::https://x.example/y',
  ])('%s is left to git-lfs', (url) => {
    expect(findEndpoint(config({ 'remote.origin.url': url }), 'download', 'origin').kind).toBe('other')
  })

  test('git:// becomes https, or what lfs.gitprotocol says', () => {
    const git = { 'remote.origin.url': 'git://git.example/r.git' }
    expect(found(git)).toBe('https://git.example/r.git/info/lfs')
    expect(found({ ...git, 'lfs.gitprotocol': 'http' })).toBe('http://git.example/r.git/info/lfs')
  })

  test.each([
    'ssh://-oProxyCommand=touch%20x/repo',
    'ssh://git@-oProxyCommand=x/repo',
    '-oProxyCommand=touch:repo',
    'ssh://host/re\npo',
    'ssh://ho\nst/repo',
  ])('%j, which ssh or a shell would act on, is refused', (url) => {
    expect(() => findEndpoint(config({ 'lfs.url': url }), 'download', 'origin')).toThrow(/malformed/)
  })

  test('a password in a URL is taken out of it, and never printed', () => {
    const endpoint = findEndpoint(
      config({ 'lfs.url': 'https://bob:p%40ss@lfs.example/x' }),
      'download',
      'origin',
    )
    expect(endpoint).toMatchObject({ kind: 'http', login: { username: 'bob', password: 'p@ss' } })
    expect(printEndpoint(endpoint)).toBe('https://lfs.example/x')
    const other = findEndpoint(config({ 'lfs.url': 'ftp://bob:pass@lfs.example/x' }), 'download', 'origin')
    expect(printEndpoint(other)).toBe('ftp://lfs.example/x')
  })

  test('url.<base>.insteadOf: the longest that fits; pushInsteadOf goes first for uploads', () => {
    const git = {
      'url.https://long.example/.insteadof': 'work:org/',
      'url.https://short.example/.insteadof': 'work:',
      'url.https://push.example/.pushinsteadof': 'work:',
      'remote.origin.url': 'work:org/repo',
    }
    expect(found(git)).toBe('https://long.example/repo.git/info/lfs')
    expect(found(git, 'upload')).toBe('https://push.example/org/repo.git/info/lfs')
  })
})

describe('.lfsconfig', () => {
  test('only what cannot harm is believed', () => {
    const allowed = [
      'lfs.url',
      'lfs.pushurl',
      'lfs.fetchinclude',
      'lfs.locksverify',
      'remote.origin.lfsurl',
      'lfs.https://h/x.access',
    ]
    const refused = [
      'lfs.customtransfer.timone.path',
      'lfs.customtransfer.https://x.path.access',
      'lfs.standalonetransferagent',
      'lfs.storage',
      'remote.origin.url',
      'remote.origin.lfspushurl',
      'http.extraheader',
      'core.sshcommand',
      'credential.helper',
      'url.https://evil.example/.insteadof',
      'timone.cachedir',
    ]
    expect(allowed.filter((key) => !isSafeKey(key))).toEqual([])
    expect(refused.filter(isSafeKey)).toEqual([])
  })

  test('git’s own configuration goes before it', () => {
    const both = config({ 'lfs.url': 'https://mine.example/x' }, { 'lfs.url': 'https://theirs.example/x' })
    expect(both.get('lfs.url')).toBe('https://mine.example/x')
    expect(both.isFromRepository('lfs.url')).toBe(false)
    const theirs = config(ORIGIN, { 'lfs.url': 'https://theirs.example/x', 'lfs.storage': '/tmp/x' })
    expect(theirs.get('lfs.storage')).toBeUndefined()
    expect(findEndpoint(theirs, 'download', 'origin')).toMatchObject({ foreign: true })
  })

  test('a server that it names on the host of the remote is no stranger', () => {
    const same = config(ORIGIN, { 'lfs.url': 'https://git.example/org/lfs' })
    expect(findEndpoint(same, 'download', 'origin')).toMatchObject({ foreign: false })
  })
})

describe('http.<url>.*', () => {
  const url = new URL('https://git.example/org/repo.git/info/lfs')
  test.each([
    'https://git.example',
    'https://git.example/',
    'https://git.example:443/org',
    'https://git.example/org/repo.git',
    'https://*.example/org',
  ])('%s fits', (pattern) => {
    expect(specificity(pattern, url)).toBeGreaterThan(0)
  })
  test.each([
    'http://git.example',
    'https://git.example:8443',
    'https://git.example/org/re',
    'https://git.example.evil',
    'https://example',
    'https://*/org',
    'https://bob@git.example',
    'git.example',
  ])('%s does not', (pattern) => {
    expect(specificity(pattern, url)).toBeUndefined()
  })
  test('the best one’s values count, all of them', () => {
    const values = new LfsConfig([
      ['http.https://git.example/org.extraheader', 'B: 1'],
      ['http.https://git.example/org.extraheader', 'B: 2'],
      ['http.https://git.example/.extraheader', 'A: 1'],
      ['http.extraheader', 'C: 1'],
    ])
    expect(values.forUrl('http', url, 'extraheader')).toEqual(['B: 1', 'B: 2'])
    expect(values.forUrl('http', new URL('https://other.example/'), 'extraheader')).toEqual([])
  })
})
