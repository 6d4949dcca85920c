import { CredentialsClient, type HeldCredentials } from '../access/client.ts'
import { type HttpSend, readText } from '../access/http-client.ts'
import type { Retrier } from '../access/retry.ts'
import type { LfsApi } from '../agent/lfs-api.ts'
import { S3Access } from '../agent/s3-access.ts'
import { describeDuration } from '../config/duration.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { nullLogger } from '../log.ts'
import { wayThere } from './doctor-advice.ts'
import { type Finding, failed, ok, skip, warn } from './doctor-report.ts'
import { batchOf, type Permitted } from './doctor-token.ts'

interface StorageQuestion {
  api: LfsApi
  send: HttpSend
  retrier: Retrier
  server: URL
  permitted: Permitted
  signal: AbortSignal
}

interface Action {
  href: string
  header: Record<string, string>
}

/** An upload that nobody has begun. */
const NO_UPLOAD = 'timone-doctor'
/** Bytes: more than go in one request. */
const LARGE = 2 ** 30

const OPERATOR = 'on the server: timone config shows its storage settings, its log says more'

/** Are there storage credentials to be had, and does the storage take them? Nothing is stored. */
export async function checkStorage(question: StorageQuestion): Promise<Finding[]> {
  const name = 'storage credentials'
  const { permitted, send, retrier, signal } = question
  const action = actionOf(permitted)
  if (action === undefined) return [skip(name, 'not checked'), skip('storage', 'not checked')]
  if ((permitted.answer as { transfer?: unknown }).transfer !== 'timone') {
    const fix = 'timone init https://HOST/ORG/REPO'
    return [
      warn(name, 'this server knows no agents: git-lfs transfers by itself', fix),
      await checkHost(action.href, send, signal),
    ]
  }
  let held: HeldCredentials
  try {
    const client = new CredentialsClient({ send, retrier, log: nullLogger })
    held = await client.get(action, permitted.operation, { signal })
  } catch (error) {
    return [failed(name, error, OPERATOR), skip('storage', 'not checked')]
  }
  const { answer } = held
  if (answer.driver === 'url') {
    const finding = ok(name, 'none: the server signs a URL for each request')
    return [finding, await checkSigned(question)]
  }
  const life = describeDuration(Math.max(0, (held.expiresAt - Date.now()) / 1000))
  const words = `for ${permitted.operation}s under ${answer.bucket}/${answer.prefix}, good for ${life}`
  return [ok(name, words), await checkBucket(held, answer.endpoint, question)]
}

/** One request to the bucket that these credentials allow and that changes nothing. */
async function checkBucket(
  held: HeldCredentials,
  endpoint: string,
  { permitted, send, retrier, signal }: StorageQuestion,
): Promise<Finding> {
  const name = 'storage'
  const access = new S3Access({
    send,
    retrier,
    endpoint,
    credentials: async () => held,
    isPresent: async () => false,
    log: nullLogger,
  })
  const { oid, size } = permitted.object
  try {
    if (permitted.operation === 'download') {
      const response = await access.get(oid, size, { offset: 0, end: Math.min(1, size), signal })
      response.body.destroy()
    } else {
      const options = { resumeId: NO_UPLOAD, partSize: LARGE / 8, replace: false, signal }
      await access.openUpload(oid, LARGE, options)
    }
  } catch (error) {
    // The store looked at the credentials before it looked for the upload.
    if (!isTimoneError(error, 'no_such_upload')) {
      const here = isTimoneError(error, 'dns', 'connection', 'timeout', 'tls', 'proxy')
      return failed(name, error, here ? wayThere(error, endpoint).replace('/healthz', '') : OPERATOR)
    }
  }
  return ok(name, `${access.host} takes the credentials`)
}

/** The host that signed URLs lead to. */
async function checkSigned({ api, permitted, send, signal }: StorageQuestion): Promise<Finding> {
  try {
    const { operation, object } = permitted
    const answer = await api.post('objects/batch', batchOf(operation, object, ['basic']), signal)
    const action = actionOf({ ...permitted, answer })
    return action === undefined ? skip('storage', 'not checked') : checkHost(action.href, send, signal)
  } catch (error) {
    return failed('storage', error, OPERATOR)
  }
}

/** Whatever the host answers, it is there. */
async function checkHost(href: string, send: HttpSend, signal: AbortSignal): Promise<Finding> {
  const { origin, host } = new URL(href)
  try {
    await readText(await send({ method: 'HEAD', url: new URL(origin), headers: {}, signal }), 2 ** 16)
    return ok('storage', `${host} answers`)
  } catch (error) {
    return failed('storage', error, wayThere(error, origin).replace('/healthz', ''))
  }
}

/** The action of the one object that was asked for. @throws {TimoneError} `invalid` */
function actionOf({ answer, operation }: Permitted): Action | undefined {
  const { objects } = answer as { objects?: { actions?: Record<string, Partial<Action>> }[] }
  const action = objects?.[0]?.actions?.[operation]
  if (action === undefined) return undefined
  if (typeof action.href !== 'string' || !URL.canParse(action.href))
    throw new TimoneError('invalid', 'the server gave an action without a usable URL: is it a timone server?')
  return { href: action.href, header: action.header ?? {} }
}
