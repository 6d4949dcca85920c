import { createHash, randomBytes } from 'node:crypto'
import { HttpClient, type HttpSend, readText } from '../access/http-client.ts'
import { Retrier } from '../access/retry.ts'
import type { GitEnvironment } from '../agent/git-environment.ts'
import { LfsApi } from '../agent/lfs-api.ts'
import type { LfsConfig } from '../agent/lfs-config.ts'
import type { LfsEndpoint } from '../agent/lfs-endpoint.ts'
import { sshAuthenticate } from '../agent/ssh-authenticate.ts'
import { describeDuration } from '../config/duration.ts'
import { nullLogger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { serverOf, wayThere } from './doctor-advice.ts'
import { type Finding, fail, failed, ok, skip, warn } from './doctor-report.ts'
import { checkStorage } from './doctor-storage.ts'
import { checkToken, QuietCredential, quietly } from './doctor-token.ts'
import type { Io } from './io.ts'

export interface ServerToCheck {
  git: GitEnvironment
  config: LfsConfig
  endpoint: Exclude<LfsEndpoint, { kind: 'other' }>
  remoteUrl: string | undefined
  /** An object that the server should have; undefined: none is known. */
  sample: () => Promise<{ oid: Oid; size: number } | undefined>
}

/** Milliseconds without a byte after which the other side counts as absent. */
const PATIENCE = 10_000

/** Seconds by which clocks may differ: the server's leeway for tokens, and what S3 takes for a signature. */
const SKEW_NOTED = 60
const SKEW_REFUSED = 300

/** Server, clock, token, storage credentials and storage, in this order. */
export async function checkServer(server: ServerToCheck, io: Io): Promise<Finding[]> {
  const http = new HttpClient((origin) => server.git.connectionSettings(origin), { idle: PATIENCE })
  const signal = io.signal ?? new AbortController().signal
  try {
    const { url, failure } = await lfsUrl(server, io, signal)
    if (failure !== undefined)
      return [failure, ...unchecked('clock', 'token', 'storage credentials', 'storage')]
    const { finding, offset } = await checkAlive(url, http.send, signal)
    if (finding.status === 'fail')
      return [finding, ...unchecked('clock', 'token', 'storage credentials', 'storage')]
    const clock = checkClock(offset)
    const credentials = new QuietCredential({ cwd: io.cwd, env: quietly(io.env) })
    const api = new LfsApi({
      endpoint: server.endpoint,
      operation: 'upload',
      remoteUrl: server.remoteUrl,
      config: server.config,
      credentials,
      cwd: io.cwd,
      env: quietly(io.env),
      send: http.send,
      retrier: once(),
      log: nullLogger,
    })
    const probe = { oid: createHash('sha256').update(randomBytes(32)).digest('hex') as Oid, size: 1 }
    const asked = { api, credentials, send: http.send, url, probe, sample: server.sample, offset, signal }
    const { finding: token, permitted } = await checkToken(asked)
    const storage =
      permitted === undefined
        ? unchecked('storage credentials', 'storage')
        : await checkStorage({ api, send: http.send, retrier: once(), server: url, permitted, signal })
    return [finding, clock, token, ...storage]
  } finally {
    await http.close()
  }
}

/** Somebody waits for the answer: what fails is said, not tried again. */
const once = (): Retrier => new Retrier({ retries: 0, maxDelay: 0 })

const unchecked = (...names: string[]): Finding[] => names.map((name) => skip(name, 'not checked'))

/** Where the server is: over ssh, that is for its host to say. */
async function lfsUrl(
  { endpoint, config }: ServerToCheck,
  io: Io,
  signal: AbortSignal,
): Promise<{ url: URL; failure?: Finding }> {
  if (endpoint.kind === 'http') return { url: endpoint.url }
  try {
    const env = quietly(io.env)
    const answer = await sshAuthenticate(endpoint, 'upload', { config, cwd: io.cwd, env }, signal)
    return { url: answer?.href ?? endpoint.url }
  } catch (error) {
    const fix = `ssh ${endpoint.host} git-lfs-authenticate ${endpoint.path} upload`
    return { url: endpoint.url, failure: failed('server', error, fix) }
  }
}

/** Is a timone server there, and does what is behind it work? `offset`: its clock minus ours, seconds. */
async function checkAlive(
  lfs: URL,
  send: HttpSend,
  signal: AbortSignal,
): Promise<{ finding: Finding; offset: number | undefined }> {
  const name = 'server'
  const server = serverOf(lfs)
  try {
    const started = Date.now()
    const health = await get(send, `${server}/healthz`, signal)
    const date = Date.parse(health.date ?? '')
    const offset = Number.isNaN(date) ? undefined : (date - (started + Date.now()) / 2) / 1000
    if (health.status !== 200 || health.json?.status !== 'ok') {
      const message = `${server} answers (${health.status}), but it is no timone server: git-lfs transfers by itself`
      return { finding: warn(name, message, 'timone init https://HOST/ORG/REPO'), offset }
    }
    const ready = await get(send, `${server}/readyz`, signal)
    if (ready.status !== 200) {
      const checks = Object.entries((ready.json?.checks ?? {}) as Record<string, unknown>)
      const broken = checks.filter(([, state]) => state !== 'ok').map(([part, state]) => `${part}: ${state}`)
      const message = `${server} is alive, but not ready (${broken.join(', ') || ready.status})`
      return { finding: fail(name, message, 'on the server: timone config, and its log, say why'), offset }
    }
    const version = typeof health.json.version === 'string' ? `, version ${health.json.version}` : ''
    return { finding: ok(name, `${server} is ready${version}`), offset }
  } catch (error) {
    return { finding: failed(name, error, wayThere(error, server)), offset: undefined }
  }
}

function checkClock(offset: number | undefined): Finding {
  const name = 'clock'
  if (offset === undefined) return skip(name, 'the server does not say what time it is')
  const seconds = Math.abs(offset)
  if (seconds < SKEW_NOTED) return ok(name, `agrees with the server's to ${Math.ceil(seconds)} s`)
  const message = `this machine's clock is ${describeDuration(seconds)} ${offset > 0 ? 'behind' : 'ahead of'} the server's`
  return seconds < SKEW_REFUSED ? warn(name, message, setClock()) : fail(name, message, setClock())
}

function setClock(): string {
  if (process.platform === 'darwin') return 'sudo sntp -sS time.apple.com'
  return process.platform === 'win32' ? 'w32tm /resync' : 'sudo timedatectl set-ntp true'
}

async function get(
  send: HttpSend,
  address: string,
  signal: AbortSignal,
): Promise<{ status: number; date: string | undefined; json: Record<string, unknown> | undefined }> {
  const response = await send({ method: 'GET', url: new URL(address), headers: {}, signal })
  const text = await readText(response, 2 ** 16)
  let json: Record<string, unknown> | undefined
  try {
    json = JSON.parse(text) as Record<string, unknown>
  } catch {
    // Not ours, then.
  }
  return { status: response.status, date: response.headers.date, json }
}
