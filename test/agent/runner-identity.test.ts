import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { HttpClient } from '../../src/access/http-client.ts'
import {
  audienceOf,
  exchangeRunnerToken,
  runnerCredential,
  serverOf,
} from '../../src/agent/runner-exchange.ts'
import { findRunnerToken } from '../../src/agent/runner-identity.ts'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

let issuer: CiIssuer
let server: Running
let folder: string
const client = new HttpClient(async () => ({}))
const { send } = client
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-runner-'))
  issuer = await startCiIssuer()
  issuer.claims = CLAIMS.github
  server = await startOnFiles({
    trust: ['https://lfs.example'].map((audience) => ({
      issuer: issuer.url,
      audience,
      match: { repository_id: ['74'] },
      scopes: ['lfs:octo/site:rw'],
      ttl: 600,
    })),
  })
})
afterAll(async () => {
  await client.close()
  await server.stop()
  await issuer.stop()
  await rm(folder, { recursive: true })
})

const claimsOf = (token: string): Record<string, unknown> =>
  JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())

describe('the identity token of a job', () => {
  const find = (env: Record<string, string>, audience = 'https://lfs.example') =>
    findRunnerToken({ env, audience, send })

  test('GitHub makes one for the audience that is asked for', async () => {
    const found = await find(issuer.githubEnv)
    expect(found?.source).toBe('GitHub Actions')
    expect(claimsOf(found?.token ?? '')).toMatchObject({
      aud: 'https://lfs.example',
      repository: 'octo/site',
    })
  })

  test('GitLab and others give it in the environment or a file', async () => {
    const token = await issuer.sign({ ...CLAIMS.gitlab, aud: 'x' })
    expect(await find({ TIMONE_ID_TOKEN: `${token}\n` })).toEqual({ token, source: 'TIMONE_ID_TOKEN' })
    const file = join(folder, 'token')
    await writeFile(file, `${token}\n`)
    expect((await find({ TIMONE_ID_TOKEN_FILE: file }))?.token).toBe(token)
    expect((await find({ CIRCLE_OIDC_TOKEN: 'a.b.c', CIRCLE_OIDC_TOKEN_V2: token }))?.token).toBe(token)
  })

  test('Buildkite’s agent makes one', async () => {
    const token = await issuer.sign({ ...CLAIMS.buildkite, aud: 'https://lfs.example' })
    const agent = join(folder, 'buildkite-agent')
    await writeFile(
      agent,
      `#!/bin/sh\n[ "$*" = "oidc request-token --audience https://lfs.example" ] && echo ${token}\n`,
    )
    await chmod(agent, 0o755)
    const env = {
      PATH: `${folder}:${process.env.PATH}`,
      BUILDKITE: 'true',
      BUILDKITE_AGENT_ACCESS_TOKEN: 'x',
    }
    expect(await find(env)).toEqual({ token, source: 'Buildkite' })
    await expect(find(env, 'https://other')).rejects.toThrow(/buildkite-agent/)
  })

  test('there is none on a laptop, nor for an empty variable', async () => {
    expect(await find({ PATH: process.env.PATH ?? '', TIMONE_ID_TOKEN: '' })).toBeUndefined()
  })

  test('failures name the way out and no secret', async () => {
    await expect(find({ TIMONE_ID_TOKEN: 'my secret' })).rejects.toThrow(/^(?!.*my secret).*no JWT/)
    await expect(find({ TIMONE_ID_TOKEN_FILE: join(folder, 'none') })).rejects.toThrow(/TIMONE_ID_TOKEN_FILE/)
    const bad = { ...issuer.githubEnv, ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'wrong' }
    await expect(find(bad)).rejects.toThrow(/id-token: write/)
    const plain = { ...issuer.githubEnv, ACTIONS_ID_TOKEN_REQUEST_URL: 'http://example.com/token' }
    await expect(find(plain)).rejects.toThrow(/no https address/)
  })
})

test('the server of an endpoint', () => {
  const of = (text: string): string => audienceOf(serverOf(new URL(text)))
  expect(of('https://lfs.example/octo/site/info/lfs')).toBe('https://lfs.example')
  expect(of('https://lfs.example/base/octo/site/info/lfs')).toBe('https://lfs.example/base')
  expect(of('https://lfs.example/')).toBe('https://lfs.example')
})

describe('the exchange', () => {
  test('gives a token, or the server’s reason', async () => {
    const token = await issuer.sign({ ...CLAIMS.github, aud: 'https://lfs.example' })
    const session = await exchangeRunnerToken(new URL(server.url), { token, source: '' }, { send })
    expect(session).toMatchObject({ expiresIn: 600, scope: 'lfs:octo/site:rw' })
    const wrong = await issuer.sign({ ...CLAIMS.github, aud: 'https://other' })
    const failed = exchangeRunnerToken(new URL(server.url), { token: wrong, source: '' }, { send })
    await expect(failed).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringMatching(/audience/),
    })
    await expect(failed).rejects.not.toThrow(wrong)
    const plain = exchangeRunnerToken(new URL('http://lfs.example'), { token, source: '' }, { send })
    await expect(plain).rejects.toThrow(/plain http/)
  })
})

describe('by itself', () => {
  const at = (foreign: boolean, env: Record<string, string>, base = server.url) =>
    runnerCredential({ url: new URL(`${base}/octo/site/info/lfs`), foreign }, { env, send })
  const named = { TIMONE_ID_TOKEN_AUDIENCE: 'https://lfs.example' }

  test('where git’s own configuration names the server', async () => {
    expect(await at(false, { ...issuer.githubEnv, ...named })).toMatchObject({ username: 'x-access-token' })
    const token = await issuer.sign({ ...CLAIMS.github, aud: 'https://lfs.example' })
    expect(await at(false, { TIMONE_ID_TOKEN: token })).toMatchObject({ password: expect.any(String) })
    expect(await at(false, { PATH: '/bin' })).toBeUndefined()
  })

  test('never to a server that only .lfsconfig names and the token is not for', async () => {
    // A hostile repository's server, which writes down everything that it is sent.
    const hostile = await startCiIssuer()
    const before = issuer.requests.length
    const token = await issuer.sign({ ...CLAIMS.github, aud: 'https://lfs.example' })
    const bare = await issuer.sign({ ...CLAIMS.github })
    const both = await issuer.sign({ ...CLAIMS.github, aud: ['https://lfs.example', hostile.url] })
    for (const env of [
      { TIMONE_ID_TOKEN: token },
      { TIMONE_ID_TOKEN: bare },
      { TIMONE_ID_TOKEN: both },
      { CIRCLE_OIDC_TOKEN_V2: token },
      issuer.githubEnv,
      { ...issuer.githubEnv, ...named },
    ]) {
      expect(await at(true, env, hostile.url)).toBeUndefined()
    }
    expect(hostile.requests).toEqual([])
    expect(issuer.requests).toHaveLength(before)
    await hostile.stop()
  })

  test('but where the token or the job’s environment says that it is for that server', async () => {
    const own = await startOnFiles({
      trust: [
        {
          issuer: issuer.url,
          audience: server.url,
          match: { repository_id: ['74'] },
          scopes: ['lfs:a/b:r'],
          ttl: 60,
        },
      ],
    })
    const forOwn = await issuer.sign({ ...CLAIMS.github, aud: own.url })
    // Trusted or not is the server's business: it was asked.
    await expect(at(true, { TIMONE_ID_TOKEN: forOwn }, own.url)).rejects.toThrow(/audience/)
    await expect(
      at(true, { ...issuer.githubEnv, TIMONE_ID_TOKEN_AUDIENCE: own.url }, own.url),
    ).rejects.toThrow(/audience/)
    await own.stop()
  })
})
