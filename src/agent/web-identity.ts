import { readFile } from 'node:fs/promises'
import type { HttpSend } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import { findRunnerToken, runnerAudience } from './runner-identity.ts'

type Env = Readonly<Record<string, string | undefined>>

/** The identity token that STS is shown: the job's, or the one that `AWS_WEB_IDENTITY_TOKEN_FILE` names. */
export async function webIdentityToken(
  env: Env,
  options: { send: HttpSend; signal?: AbortSignal | undefined },
): Promise<string | undefined> {
  const audience = runnerAudience(env) ?? 'sts.amazonaws.com'
  const found = await findRunnerToken({ env, audience, ...options })
  if (found !== undefined) return found.token
  const file = env.AWS_WEB_IDENTITY_TOKEN_FILE
  if (!file) return undefined
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch (cause) {
    throw new TimoneError('config', 'cannot read the file that AWS_WEB_IDENTITY_TOKEN_FILE names', { cause })
  }
}
