import path from 'node:path'
import { HttpClient, type HttpSend, readText } from '../access/http-client.ts'
import { GitEnvironment } from '../agent/git-environment.ts'
import { isLoopback } from '../config/build-settings.ts'
import { TimoneError } from '../errors.ts'
import { runGit, workTree } from './git.ts'
import { type Io, print, say } from './io.ts'
import { type LfsAddress, parseLfsAddress } from './lfs-address.ts'

/** What git-lfs reads from the top of a work tree. */
const FILE = '.lfsconfig'

/** Milliseconds without a byte after which the server counts as absent. */
const PATIENCE = 10_000

/** SHA-256 of nothing: an object that a server may be asked for without it mattering. */
const EMPTY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

/**
 * `timone init`: writes `.lfsconfig` for everyone who clones, after a look at whether the server answers.
 * @param options.check false: do not ask the server
 * @throws {TimoneError} `config` for a wrong address or outside a work tree; otherwise what kept the server from
 *   answering. Nothing is written then.
 */
export async function init(address: string, options: { readonly check: boolean }, io: Io): Promise<number> {
  const lfs = parseLfsAddress(address)
  const file = path.join(await workTree(io), FILE)
  if (lfs.url.startsWith('http://') && !isLoopback(new URL(lfs.url).hostname)) {
    say(io, 'the address is plain http: anyone on the way can read the tokens')
  }
  if (options.check) await check(lfs, io)

  let changed = false
  for (const [key, value] of [
    ['lfs.url', lfs.url],
    ['lfs.locksverify', 'true'],
  ] as const) {
    const { stdout } = await runGit(['config', '--file', file, '--null', '--get-all', key], io)
    if (stdout === `${value}\0`) continue
    const { code, complaint } = await runGit(['config', '--file', file, '--replace-all', key, value], io)
    if (code !== 0) throw new TimoneError('config', `cannot write ${file}: ${complaint}`)
    changed = true
  }
  print(io, `timone: ${file} ${changed ? 'points' : 'already points'} to ${lfs.url}`)
  if (changed) {
    print(
      io,
      'Next:',
      '  git add .lfsconfig && git commit -m "Keep large files in timone"   # everyone who clones then has it',
      '  timone install                                                      # once for each user: fast transfers',
      '  git lfs track "*.psd"                                               # name what counts as large',
    )
  }
  return 0
}

/** Is a timone server there, and does it know how to be asked for this repository's objects? */
async function check(lfs: LfsAddress, io: Io): Promise<void> {
  const git = new GitEnvironment({ cwd: io.cwd, env: io.env })
  const http = new HttpClient((origin) => git.connectionSettings(origin))
  try {
    const health = await ask(http.send, 'GET', `${lfs.server}/healthz`, io.signal)
    if (health !== 200) throw noServer(lfs, `${lfs.server}/healthz`, health)
    const batch = { operation: 'download', transfers: ['basic'], objects: [{ oid: EMPTY, size: 0 }] }
    const status = await ask(http.send, 'POST', `${lfs.url}/objects/batch`, io.signal, JSON.stringify(batch))
    // 401: the repository is private; nobody has signed in yet, and nobody should have to here.
    if (status !== 200 && status !== 401) throw noServer(lfs, `${lfs.url}/objects/batch`, status)
  } catch (error) {
    if (!(error instanceof TimoneError) || error.code === 'cancelled') throw error
    throw new TimoneError(
      error.code,
      `${error.message}. Nothing was written: check the address and that timone serve runs there, or use --no-check`,
      { cause: error },
    )
  } finally {
    await http.close()
  }
}

async function ask(
  send: HttpSend,
  method: string,
  address: string,
  signal: AbortSignal | undefined,
  body?: string,
): Promise<number> {
  const type = 'application/vnd.git-lfs+json'
  const response = await send({
    method,
    url: new URL(address),
    headers:
      body === undefined
        ? {}
        : { accept: type, 'content-type': type, 'content-length': String(Buffer.byteLength(body)) },
    idleTimeout: PATIENCE,
    ...(body === undefined ? {} : { body }),
    ...(signal === undefined ? {} : { signal }),
  })
  await readText(response)
  return response.status
}

function noServer(lfs: LfsAddress, address: string, status: number): TimoneError {
  return new TimoneError('unavailable', `no timone server at ${lfs.server}: ${address} answered ${status}`, {
    status,
  })
}
