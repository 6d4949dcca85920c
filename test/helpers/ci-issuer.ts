import { execFileSync } from 'node:child_process'
import { createHash, X509Certificate } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, importPKCS8, type JWTPayload, SignJWT } from 'jose'

/**
 * The OIDC issuer of a CI system on loopback: discovery, key set, and tokens as the system signs them for its jobs.
 * GitHub's runner asks for its token at `/token?audience=…` with the bearer `requestToken`, as on github.com.
 */
export interface CiIssuer {
  url: string
  /** A token with these claims; `iss`, `iat`, `exp` (5 minutes), `jti` are filled in. */
  sign(claims: Record<string, unknown>): Promise<string>
  /** New key; `overlap` keeps the old one in the set. */
  rotate(overlap?: boolean): Promise<void>
  /** Paths that were asked for, in order. */
  requests: string[]
  /** SHA-1 of the certificate of the key, hexadecimal; empty where keys have none. */
  thumbprint: string
  /** Answers instead of the issuer; undefined gives it back. */
  answer: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined
  /** What a runner of GitHub has in its environment. */
  githubEnv: { ACTIONS_ID_TOKEN_REQUEST_URL: string; ACTIONS_ID_TOKEN_REQUEST_TOKEN: string }
  /** Claims of the tokens given at `/token`. */
  claims: JWTPayload
  stop(): Promise<void>
}

interface Key {
  kid: string
  publicJwk: object
  thumbprint: string
  privateKey: Awaited<ReturnType<typeof generateKeyPair>>['privateKey']
}

let serial = 0

async function makeKey(certified: boolean): Promise<Key> {
  const kid = `key-${++serial}`
  const names = { kid, alg: 'RS256', use: 'sig' }
  if (!certified) {
    const { publicKey, privateKey } = await generateKeyPair('RS256')
    return { kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), ...names }, thumbprint: '' }
  }
  const request = 'req -x509 -newkey rsa:2048 -nodes -keyout - -out - -days 2 -subj /CN=ci.example'
  const pem = execFileSync('openssl', request.split(' '), {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const { raw, publicKey } = new X509Certificate(pem)
  return {
    kid,
    privateKey: await importPKCS8(pem.slice(0, pem.indexOf('-----BEGIN CERTIFICATE')), 'RS256'),
    publicJwk: { ...(await exportJWK(publicKey)), ...names, x5c: [raw.toString('base64')] },
    thumbprint: createHash('sha1').update(raw).digest('hex'),
  }
}

/** `certified`: its key comes with a certificate in the key set (`x5c`, RFC 7517 section 4.7), as radosgw wants it. */
export async function startCiIssuer({ certified = false } = {}): Promise<CiIssuer> {
  let keys = [await makeKey(certified)]
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', issuer.url)
    issuer.requests.push(url.pathname)
    if (issuer.answer?.(request, response) === true) return
    const json = (body: unknown, status = 200): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
    }
    if (url.pathname === '/.well-known/openid-configuration') {
      json({
        issuer: issuer.url,
        jwks_uri: `${issuer.url}/.well-known/jwks`,
        id_token_signing_alg_values_supported: ['RS256'],
        response_types_supported: ['id_token'],
        subject_types_supported: ['public'],
      })
    } else if (url.pathname === '/.well-known/jwks') {
      json({ keys: keys.map(({ publicJwk }) => publicJwk) })
    } else if (url.pathname === '/token') {
      if (request.headers.authorization !== `Bearer ${REQUEST_TOKEN}`) return json({ message: 'no' }, 401)
      void issuer
        .sign({ ...issuer.claims, aud: url.searchParams.get('audience') ?? 'https://github.com/octo' })
        .then((value) => json({ value, count: value.length }))
    } else json({}, 404)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const REQUEST_TOKEN = 'the-request-token-of-the-runner'
  const issuer: CiIssuer = {
    url: `http://127.0.0.1:${port}`,
    requests: [],
    thumbprint: keys[0]?.thumbprint ?? '',
    answer: undefined,
    claims: {},
    githubEnv: {
      ACTIONS_ID_TOKEN_REQUEST_URL: `http://127.0.0.1:${port}/token?api-version=2.0`,
      ACTIONS_ID_TOKEN_REQUEST_TOKEN: REQUEST_TOKEN,
    },
    sign: async (claims) => {
      const now = Math.floor(Date.now() / 1000)
      const { kid, privateKey } = keys[0] as Key
      return new SignJWT({
        iss: issuer.url,
        iat: now,
        nbf: now,
        exp: now + 300,
        jti: `${++serial}`,
        ...claims,
      })
        .setProtectedHeader({ alg: 'RS256', typ: 'JWT', kid })
        .sign(privateKey)
    },
    rotate: async (overlap = false) => {
      keys = [await makeKey(certified), ...(overlap ? keys : [])]
    },
    stop: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
  return issuer
}

/** Claims as each system's documentation shows them, without what {@link CiIssuer.sign} fills in. */
export const CLAIMS = {
  github: {
    sub: 'repo:octo/site:ref:refs/heads/main',
    repository: 'octo/site',
    repository_id: '74',
    repository_owner: 'octo',
    repository_owner_id: '65',
    repository_visibility: 'private',
    ref: 'refs/heads/main',
    ref_type: 'branch',
    event_name: 'push',
    environment: 'production',
    actor: 'mona',
    run_id: '9001',
    workflow_ref: 'octo/site/.github/workflows/build.yml@refs/heads/main',
    job_workflow_ref: 'octo/site/.github/workflows/build.yml@refs/heads/main',
  },
  /** GitHub's other form of `sub`, with ids that no new owner of a name can have. */
  githubImmutable: {
    sub: 'repo:octo@65/site@74:ref:refs/heads/main',
    repository: 'octo/site',
    repository_id: '74',
    ref: 'refs/heads/main',
  },
  gitlab: {
    sub: 'project_path:group/project:ref_type:branch:ref:main',
    namespace_id: '72',
    namespace_path: 'group',
    project_id: '20',
    project_path: 'group/project',
    pipeline_source: 'push',
    ref: 'main',
    ref_type: 'branch',
    ref_protected: 'true',
    environment_protected: 'false',
    runner_id: 1,
  },
  buildkite: {
    sub: 'organization:acme-inc:pipeline:super-duper-app:ref:refs/heads/main:commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:build',
    organization_slug: 'acme-inc',
    organization_id: '018f-acme',
    pipeline_slug: 'super-duper-app',
    build_number: 1,
    build_branch: 'main',
    build_commit: '9f3182061f1e2cca4702c368cbc039b7dc9d4485',
    step_key: 'build',
    job_id: '0184990a-477b-4fa8-9968-496074483cee',
    agent_id: '0184990a-4782-42b5-afc1-16715b10b8ff',
  },
  circleci: {
    sub: 'org/1b6f/project/7d2a/user/44c1',
    'oidc.circleci.com/project-id': '7d2a',
    'oidc.circleci.com/context-ids': ['c0', 'c1'],
    'oidc.circleci.com/vcs-origin': 'github.com/octo/site',
    'oidc.circleci.com/vcs-ref': 'refs/heads/main',
    'oidc.circleci.com/ssh-rerun': false,
  },
} as const
