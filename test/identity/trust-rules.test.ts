import { describe, expect, test } from 'vitest'
import { readTrust } from '../../src/config/trust-setting.ts'
import { checkTrustRules, globMatches, ruleMatches, type TrustRule } from '../../src/identity/trust-rules.ts'
import { CLAIMS } from '../helpers/ci-issuer.ts'

const GITHUB = 'https://token.actions.githubusercontent.com'

function rule(match: Record<string, string[]>, issuer = GITHUB, more: Partial<TrustRule> = {}): TrustRule {
  return { issuer, audience: 'https://lfs.example', match, scopes: ['lfs:octo/site:rw'], ttl: 600, ...more }
}

describe('rules that could match anyone are refused', () => {
  test.each<[string, TrustRule]>([
    ['nothing pinned', rule({}, 'https://ci.example')],
    ['only issuer and audience', rule({ iss: ['https://ci.example'], aud: ['x'] }, 'https://ci.example')],
    ['only *', rule({ repository: ['*'] }, 'https://ci.example')],
    ['only **', rule({ sub: ['**'] }, 'https://ci.example')],
    ['* as one of a list', rule({ repository: ['octo/site', '*'] }, 'https://ci.example')],
    ['an empty list', rule({ repository: [] }, 'https://ci.example')],
    ['a branch of anyone at GitHub', rule({ ref: ['refs/heads/main'] })],
    ['any repository of a name', rule({ repository: ['*/site'] })],
    ['owners that begin alike', rule({ repository: ['octo*'] })],
    ['a sub without an owner', rule({ sub: ['repo:*:ref:refs/heads/main'] })],
    ['a sub whose owner has no end', rule({ sub: ['repo:octo*'] })],
    ['one of two without an owner', rule({ repository: ['octo/site', '*/site'] })],
    ['a claim that objects have', rule({ constructor: ['x'] })],
    ['a branch of anyone at GitLab', rule({ ref: ['main'], ref_protected: ['true'] }, 'https://gitlab.com')],
    ['a pipeline of anyone at Buildkite', rule({ pipeline_slug: ['app'] }, 'https://agent.buildkite.com')],
  ])('%s', (_name, bad) => {
    expect(() => checkTrustRules([bad])).toThrow(/could match anyone/)
  })

  test.each<[string, TrustRule]>([
    ['plain http', rule({ sub: ['x'] }, 'http://ci.example')],
    [
      'keys over plain http',
      rule({ sub: ['x'] }, 'https://ci.example', { jwksUrl: 'http://ci.example/keys' }),
    ],
    ['a password in the issuer', rule({ sub: ['x'] }, 'https://u:p@ci.example')],
    ['any audience', rule({ repository_id: ['74'] }, GITHUB, { audience: '*' })],
    ['no scope', rule({ repository_id: ['74'] }, GITHUB, { scopes: [] })],
    ['a scope that is none', rule({ repository_id: ['74'] }, GITHUB, { scopes: ['everything'] })],
  ])('and so is %s', (_name, bad) => {
    expect(() => checkTrustRules([bad])).toThrow(/trust rule 1/)
  })

  test('rules that name the owner are taken', () => {
    checkTrustRules([
      rule({ repository_id: ['74'] }),
      rule({ repository: ['octo/*'], ref: ['refs/heads/main'] }),
      rule({ sub: ['repo:octo/site:*', 'repo:octo@65/site@74:*'] }),
      rule({ sub: ['repository_owner_id:65:*'] }),
      rule({ project_path: ['group/*'] }, 'https://gitlab.com'),
      rule({ organization_slug: ['acme-inc'] }, 'https://agent.buildkite.com'),
      rule({ 'oidc.circleci.com/project-id': ['7d2a'] }, 'https://oidc.circleci.com/org/1b6f'),
      rule({ sub: ['job-1'] }, 'http://127.0.0.1:9'),
    ])
  })
})

describe('what a rule matches', () => {
  test.each<[string, Record<string, unknown>, Record<string, string[]>, boolean]>([
    ['GitHub by id and branch', CLAIMS.github, { repository_id: ['74'], ref: ['refs/heads/main'] }, true],
    ['GitHub by environment', CLAIMS.github, { repository_id: ['74'], environment: ['production'] }, true],
    ['GitHub, other branch', CLAIMS.github, { repository_id: ['74'], ref: ['refs/heads/release/*'] }, false],
    ['GitHub by sub', CLAIMS.github, { sub: ['repo:octo/site:ref:refs/heads/*'] }, true],
    ['GitHub by the sub with ids', CLAIMS.githubImmutable, { sub: ['repo:octo@65/site@74:*'] }, true],
    [
      'GitHub, both forms named, the old one',
      CLAIMS.github,
      { sub: ['repo:octo@65/site@74:*', 'repo:octo/site:*'] },
      true,
    ],
    ['GitHub, old form named, ids come', CLAIMS.githubImmutable, { sub: ['repo:octo/site:*'] }, false],
    ['GitLab', CLAIMS.gitlab, { project_path: ['group/project'], ref_protected: ['true'] }, true],
    ['GitLab, a number', CLAIMS.gitlab, { runner_id: ['1'] }, true],
    ['Buildkite', CLAIMS.buildkite, { organization_slug: ['acme-inc'], build_branch: ['main'] }, true],
    ['CircleCI', CLAIMS.circleci, { 'oidc.circleci.com/project-id': ['7d2a'] }, true],
    ['CircleCI, one of its contexts', CLAIMS.circleci, { 'oidc.circleci.com/context-ids': ['c1'] }, true],
    ['CircleCI, a boolean', CLAIMS.circleci, { 'oidc.circleci.com/ssh-rerun': ['true'] }, false],
    ['a claim that is not there', CLAIMS.github, { enterprise: ['*'] }, false],
    ['a claim that every object has', CLAIMS.github, { toString: ['*'] }, false],
  ])('%s', (_name, claims, match, expected) => {
    expect(ruleMatches(rule(match), claims)).toBe(expected)
  })

  test.each([
    ['refs/heads/*', 'refs/heads/a/b', true],
    ['refs/heads/*', 'refs/heads', false],
    ['a*b*c', 'a-b-b-c', true],
    ['a*a', 'a', false],
    ['*main', 'main', true],
    ['a.c', 'abc', false],
    ['*a*', 'bab', true],
    ['a*bc*c', 'abc', false],
  ])('%s and %s', (pattern, text, expected) => {
    expect(globMatches(pattern, text)).toBe(expected)
  })

  test('a pattern made to be slow is not', () => {
    const started = performance.now()
    expect(globMatches(`${'*a'.repeat(500)}b`, 'a'.repeat(10_000))).toBe(false)
    expect(performance.now() - started).toBeLessThan(500)
  })
})

describe('the setting', () => {
  test('is read with its defaults', () => {
    const text = JSON.stringify([
      {
        issuer: GITHUB,
        audience: 'a',
        match: { repository_id: 74, ref: ['x', 'y'] },
        scopes: ['lfs:o/r:r'],
        ttl: '15m',
      },
      { issuer: GITHUB, audience: 'a', match: { repository_id: '74' }, scopes: ['lfs:o/r:r'] },
    ])
    expect(readTrust(text)).toEqual([
      {
        issuer: GITHUB,
        audience: 'a',
        match: { repository_id: ['74'], ref: ['x', 'y'] },
        scopes: ['lfs:o/r:r'],
        ttl: 900,
      },
      { issuer: GITHUB, audience: 'a', match: { repository_id: ['74'] }, scopes: ['lfs:o/r:r'], ttl: 3600 },
    ])
    expect(readTrust('')).toEqual([])
  })

  test.each([
    ['no JSON', 'x', /array of tables/],
    ['no audience', JSON.stringify([{ issuer: GITHUB, match: {}, scopes: [] }]), /rule 1, audience/],
    [
      'an unknown key',
      JSON.stringify([{ issuer: GITHUB, audience: 'a', match: {}, scopes: [], claims: {} }]),
      /rule 1/,
    ],
    [
      'a life of a year',
      JSON.stringify([{ issuer: GITHUB, audience: 'a', match: {}, scopes: [], ttl: '52w' }]),
      /ttl/,
    ],
  ])('%s is said', (_name, text, message) => {
    expect(() => readTrust(text)).toThrow(message)
  })
})
