import { execFile } from 'node:child_process'
import { basename, extname } from 'node:path'
import type { Operation } from '../access/credentials.ts'
import { TimoneError } from '../errors.ts'
import type { LfsConfig } from './lfs-config.ts'
import type { LfsEndpoint } from './lfs-endpoint.ts'

/** Where an ssh server sends us to, with what opens it. `header` is secret. */
export interface SshAnswer {
  href: URL
  header: Record<string, string>
  /** Milliseconds since the epoch; undefined: for ever. */
  expiresAt: number | undefined
}

export interface SshOptions {
  config: LfsConfig
  cwd: string
  env: NodeJS.ProcessEnv
}

type SshEndpoint = Extract<LfsEndpoint, { kind: 'ssh' }>

/** ssh may ask for a passphrase: a person needs time, milliseconds. */
const SSH_TIMEOUT = 120_000

/**
 * Asks `git-lfs-authenticate` on the ssh server (git-lfs docs/api/authentication.md). Undefined when the server has no
 * such command: the https address beside it is then what is left.
 * @throws {TimoneError} `unauthorized` with what ssh said
 */
export async function sshAuthenticate(
  endpoint: SshEndpoint,
  operation: Operation,
  options: SshOptions,
  signal: AbortSignal,
): Promise<SshAnswer | undefined> {
  const { program, args } = sshCommand(
    endpoint,
    `git-lfs-authenticate ${quote(endpoint.path)} ${operation}`,
    options,
  )
  const started = Date.now()
  const { code, stdout, stderr } = await new Promise<{ code: unknown; stdout: string; stderr: string }>(
    (resolve) => {
      const child = execFile(
        program,
        args,
        {
          cwd: options.cwd,
          env: options.env,
          timeout: SSH_TIMEOUT,
          maxBuffer: 2 ** 20,
          windowsHide: true,
          signal,
        },
        (error, out, said) => resolve({ code: error === null ? 0 : error.code, stdout: out, stderr: said }),
      )
      child.stdin?.end()
    },
  )
  if (signal.aborted) throw new TimoneError('cancelled', 'interrupted')
  if (code === 127) return undefined
  if (code !== 0) {
    const said = stderr.trim().split('\n').at(-1) ?? ''
    throw new TimoneError(
      'unauthorized',
      `ssh ${endpoint.host} git-lfs-authenticate failed (${String(code)})${said === '' ? '' : `: ${said.slice(0, 300)}`}: ` +
        'check that ssh reaches the host and that you may use the repository',
    )
  }
  return readAnswer(stdout, started, endpoint)
}

function readAnswer(text: string, started: number, endpoint: SshEndpoint): SshAnswer {
  let json: { href?: unknown; header?: unknown; expires_in?: unknown; expires_at?: unknown }
  try {
    json = JSON.parse(text)
  } catch {
    throw new TimoneError(
      'invalid',
      `git-lfs-authenticate on ${endpoint.host} answered something that is not JSON`,
    )
  }
  const href = typeof json?.href === 'string' && json.href !== '' ? URL.parse(json.href) : endpoint.url
  if (href === null || !/^https?:$/.test(href.protocol)) {
    throw new TimoneError(
      'invalid',
      `git-lfs-authenticate on ${endpoint.host} answered with an unusable href`,
    )
  }
  href.pathname = href.pathname.replace(/\/+$/, '')
  const header: Record<string, string> = {}
  for (const [name, value] of Object.entries(json.header ?? {})) {
    if (typeof value === 'string') header[name.toLowerCase()] = value
  }
  const { expires_in: seconds, expires_at: time } = json
  const parsed = typeof time === 'string' ? Date.parse(time) : Number.NaN
  const expiresAt =
    typeof seconds === 'number' && seconds > 0 ? started + seconds * 1000 : parsed > 0 ? parsed : undefined
  return { href, header, expiresAt }
}

/** ssh as git starts it: GIT_SSH_COMMAND, core.sshCommand (both for a shell), GIT_SSH, ssh. */
export function sshCommand(
  { host, port }: Pick<SshEndpoint, 'host' | 'port'>,
  remoteCommand: string,
  { config, env }: Pick<SshOptions, 'config' | 'env'>,
): { program: string; args: string[] } {
  const command =
    notEmpty(env.GIT_SSH_COMMAND) ??
    (notEmpty(env.GIT_SSH) === undefined ? notEmpty(config.get('core.sshcommand')) : undefined)
  const program = notEmpty(env.GIT_SSH) ?? 'ssh'
  const variant = sshVariant(
    command?.trim().split(/\s+/)[0] ?? program,
    env.GIT_SSH_VARIANT ?? config.get('ssh.variant'),
  )
  const args: string[] = []
  if (variant === 'tortoiseplink') args.push('-batch')
  if (port !== undefined) args.push(variant === 'putty' || variant === 'tortoiseplink' ? '-P' : '-p', port)
  // Only OpenSSH knows the separator; no host here begins with a dash, see readSsh.
  if (variant === 'ssh') args.push('--')
  args.push(host, remoteCommand)
  // The words go in as the shell's arguments, so that it reads none of them.
  return command === undefined
    ? { program, args }
    : { program: 'sh', args: ['-c', `${command} "$@"`, 'ssh', ...args] }
}

function sshVariant(program: string, configured: string | undefined): string {
  if (configured !== undefined && configured !== 'auto') return configured === 'plink' ? 'putty' : configured
  const name = basename(program, extname(program)).toLowerCase()
  return name === 'plink' ? 'putty' : name === 'tortoiseplink' ? name : 'ssh'
}

const notEmpty = (text: string | undefined): string | undefined => (text === '' ? undefined : text)

/** One word for the shell at the other end, as git quotes paths: a csh there would act on `!`. */
const quote = (text: string): string => `'${text.replace(/['!]/g, "'\\$&'")}'`
