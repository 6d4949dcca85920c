import { HttpClient } from '../access/http-client.ts'
import { GitEnvironment } from '../agent/git-environment.ts'
import { audienceOf, exchangeRunnerToken, RUNNER_USER, serverOf } from '../agent/runner-exchange.ts'
import { findRunnerToken, runnerAudience } from '../agent/runner-identity.ts'
import { describeDuration } from '../config/duration.ts'
import { TimoneError } from '../errors.ts'
import { CredentialStore } from './credential-store.ts'
import { type Io, say } from './io.ts'

/**
 * `timone login URL --ci`: trades the identity token of this CI job for a token of the server, and has git keep it, so
 * that git-lfs finds it as well. Gives the exit code.
 * @throws {TimoneError} `config` outside a job, or when no helper of git keeps passwords; `unauthorized` when the server
 *   does not trust the job
 */
export async function loginCi(address: string, io: Io): Promise<number> {
  const url = URL.parse(address)
  if (url === null || !/^https?:$/.test(url.protocol))
    throw new TimoneError('config', 'the address of the server must begin with https://')
  const server = serverOf(url)
  const { env, cwd, signal } = io
  const store = new CredentialStore(io)
  await store.requireHelper(url)
  await store.requirePath(url)
  const git = new GitEnvironment({ cwd, env })
  const http = new HttpClient((origin) => git.connectionSettings(origin))
  try {
    const options = { env, send: http.send, signal }
    const audience = runnerAudience(env) ?? audienceOf(server)
    const found = await findRunnerToken({ ...options, audience })
    if (found === undefined) {
      throw new TimoneError(
        'config',
        'no identity token of a CI job is to be found: set TIMONE_ID_TOKEN, or TIMONE_ID_TOKEN_FILE; on GitHub the job needs permissions: id-token: write',
      )
    }
    const session = await exchangeRunnerToken(server, found, options)
    const expiry = Math.floor(Date.now() / 1000) + session.expiresIn
    await store.keep(url, { username: RUNNER_USER, password: session.token }, expiry)
    say(
      io,
      `signed in to ${server.host} as this job (${found.source}), for ${describeDuration(session.expiresIn)}: ${session.scope}`,
    )
    return 0
  } finally {
    await http.close()
  }
}
