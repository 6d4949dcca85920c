import type { HeldCredentials } from '../access/client.ts'
import { HttpClient, type HttpSend } from '../access/http-client.ts'
import { Retrier } from '../access/retry.ts'
import type { GitEnvironment } from '../agent/git-environment.ts'
import { S3Access } from '../agent/s3-access.ts'
import { Standalone } from '../agent/standalone.ts'
import { printPlace, type StandalonePlace } from '../agent/standalone-config.ts'
import { describeDuration } from '../config/duration.ts'
import { isTimoneError } from '../errors.ts'
import { nullLogger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { wayThere } from './doctor-advice.ts'
import { type Finding, failed, ok, skip, warn } from './doctor-report.ts'
import type { Io } from './io.ts'

/** An upload that nobody has begun, of an object that nobody has. */
const NO_UPLOAD = 'timone-doctor'
const NO_OBJECT = '0'.repeat(64) as Oid
/** Bytes: more than go in one request. */
const LARGE = 2 ** 30

const CREDENTIALS =
  'aws sts get-caller-identity, to see what the AWS tools find; aws sso login, where a profile signs in so'
const RIGHTS = 'git config --get-regexp ^timone, and the policy of the credentials'

/** Standalone mode: are there credentials, and does the bucket take them? Nothing is stored. */
export async function checkStandalone(
  place: Extract<StandalonePlace, { kind: 'bucket' }>,
  git: GitEnvironment,
  io: Io,
): Promise<Finding[]> {
  const none = skip('server', `none: objects go to ${printPlace(place)} (lfs.standalonetransferagent)`)
  const server = [none, skip('clock', 'not checked without a server'), skip('token', 'none is needed')]
  const name = 'storage credentials'
  const http = new HttpClient((origin) => git.connectionSettings(origin))
  const standalone = new Standalone({ git, send: http.send })
  const signal = io.signal ?? new AbortController().signal
  try {
    const way = await standalone.way(signal)
    if (way.kind !== 'bucket') throw new TypeError('a bucket was asked for')
    const held = await way.credentials(undefined, signal)
    const end =
      held.expiresAt === Number.MAX_SAFE_INTEGER
        ? 'no end'
        : describeDuration(Math.max(0, (held.expiresAt - Date.now()) / 1000))
    const finding = ok(
      name,
      `of ${place.role === undefined ? 'the AWS tools' : place.role.arn}, good for ${end}`,
    )
    return [...server, finding, await checkBucket(held, way.endpoint, { send: http.send, signal })]
  } catch (error) {
    return [...server, failed(name, error, CREDENTIALS), skip('storage', 'not checked')]
  } finally {
    await standalone.close()
    await http.close()
  }
}

async function checkBucket(
  held: HeldCredentials,
  endpoint: string,
  { send, signal }: { send: HttpSend; signal: AbortSignal },
): Promise<Finding> {
  const name = 'storage'
  const access = new S3Access({
    send,
    retrier: new Retrier({ retries: 1, maxDelay: 1 }),
    endpoint,
    credentials: async () => held,
    isPresent: async () => false,
    log: nullLogger,
  })
  const problem = (error: unknown): Finding => {
    const here = isTimoneError(error, 'dns', 'connection', 'timeout', 'tls', 'proxy')
    return failed(name, error, here ? wayThere(error, endpoint).replace('/healthz', '') : RIGHTS)
  }
  try {
    const options = { resumeId: NO_UPLOAD, partSize: LARGE / 8, replace: false, signal }
    await access.openUpload(NO_OBJECT, LARGE, options)
  } catch (error) {
    // The store looked at the credentials before it looked for the upload.
    if (isTimoneError(error, 'no_such_upload')) return ok(name, `${access.host} takes the credentials`)
    if (!isTimoneError(error, 'denied', 'forbidden')) return problem(error)
  }
  try {
    const response = await access.get(NO_OBJECT, LARGE, { offset: 0, end: 1, signal })
    response.body.destroy()
  } catch (error) {
    if (!isTimoneError(error, 'not_found')) return problem(error)
  }
  return warn(name, `the credentials may read from ${access.host}, and not write`, RIGHTS)
}
