import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import { freePort } from './world.ts'

export interface SshServer {
  /** `ssh://user@127.0.0.1:port` */
  readonly url: string
  /** For GIT_SSH_COMMAND: ssh with the one key that the server knows. */
  readonly command: string
  log(): string
  stop(): Promise<void>
}

/** OpenSSH's own server on loopback, for one key with a forced command. */
export async function startSshServer(folder: string, forcedCommand: string): Promise<SshServer> {
  await mkdir(folder, { mode: 0o700 })
  const at = (name: string): string => join(folder, name)
  for (const name of ['host-key', 'user-key'])
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', at(name)])
  const key = (await readFile(at('user-key.pub'), 'utf8')).trim()
  const options = { mode: 0o600 }
  await writeFile(at('authorized_keys'), `command="${forcedCommand}",restrict ${key}\n`, options)
  const port = await freePort()
  const settings = [
    `ListenAddress 127.0.0.1:${port}`,
    `HostKey ${at('host-key')}`,
    `AuthorizedKeysFile ${at('authorized_keys')}`,
    'PidFile none',
    'UsePAM no',
    'StrictModes no',
    'PasswordAuthentication no',
    'PermitRootLogin forced-commands-only',
  ]
  await writeFile(at('config'), `${settings.join('\n')}\n`)
  // Where the server of Debian's packages locks itself up; root's start needs it.
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true, mode: 0o755 })
  const child: ChildProcess = spawn('/usr/sbin/sshd', ['-D', '-e', '-f', at('config')], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    log += text
  })
  const deadline = Date.now() + 10_000
  while (!(await answers(port))) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`sshd did not start:\n${log}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  const known = `-o UserKnownHostsFile=${at('known_hosts')} -o StrictHostKeyChecking=accept-new`
  return {
    url: `ssh://${userInfo().username}@127.0.0.1:${port}`,
    command: `ssh -F none -i ${at('user-key')} -o IdentitiesOnly=yes -o BatchMode=yes ${known}`,
    log: () => log,
    stop: async () => {
      if (child.exitCode !== null) return
      const ended = once(child, 'exit')
      child.kill()
      await ended
    },
  }
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'data')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
