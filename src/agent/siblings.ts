import { chmodSync, closeSync, constants, fstatSync, openSync } from 'node:fs'
import { connect, createServer, type Server, Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'

/** Both ends of one agent's conversation with git-lfs. */
export interface Pipes {
  input: Readable
  output: Writable
}

/** A front that takes no notice for so long is of no use to its sibling, milliseconds. */
const PATIENCE = 2000
/** What siblings say to each other is short. */
const LONGEST_LINE = 64

/**
 * Becomes the front of all agents that come to `place`, if none is there; undefined if one is, or nobody can be.
 * `onSibling` gets the pipes of each further agent. Close the server to be found no more.
 */
export async function becomeFront(
  place: string,
  onSibling: (pipes: Pipes) => void,
): Promise<Server | undefined> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    receive(socket).then(
      (pipes) => pipes !== undefined && onSibling(pipes),
      () => socket.destroy(),
    )
  })
  const listening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(place, () => resolve(true))
  })
  if (!listening) return undefined
  server.on('error', () => {})
  // The folder is the user's alone; this is for whoever opens it up.
  if (process.platform !== 'win32') chmodSync(place, 0o600)
  return server
}

/**
 * Gives this process's stdin and stdout to the front at `place`. `adopted`: they are in its hands and this process can
 * end. A socket: the front reads from and writes to it, and this process passes all on. Undefined: there is no front.
 */
export async function joinFront(place: string): Promise<'adopted' | Socket | undefined> {
  const socket = connect(place)
  const timer = setTimeout(() => socket.destroy(), PATIENCE)
  try {
    socket.on('error', () => {})
    socket.write(process.platform === 'linux' ? `adopt ${process.pid}\n` : 'relay\n')
    const answer = await readLine(socket)
    if (answer === 'adopted') {
      socket.destroy()
      return 'adopted'
    }
    if (answer === 'relay') return socket
    socket.destroy()
    return undefined
  } finally {
    clearTimeout(timer)
  }
}

/** The pipes of an agent that has just connected. */
async function receive(socket: Socket): Promise<Pipes | undefined> {
  const timer = setTimeout(() => socket.destroy(), PATIENCE)
  const line = await readLine(socket).finally(() => clearTimeout(timer))
  const [, pid] = /^adopt (\d{1,10})$/.exec(line ?? '') ?? []
  const adopted = pid === undefined ? undefined : openPipes(pid)
  if (adopted !== undefined) {
    socket.end('adopted\n')
    return adopted
  }
  if (pid === undefined && line !== 'relay') {
    socket.destroy()
    return undefined
  }
  socket.write('relay\n')
  return { input: socket, output: socket }
}

/**
 * The stdin and stdout of another process of this user, opened anew (proc(5): opening /proc/PID/fd/N of a pipe opens
 * the pipe itself). Undefined unless both are pipes, as git-lfs makes them.
 */
function openPipes(pid: string): Pipes | undefined {
  const fds: number[] = []
  try {
    for (const [fd, mode] of [
      [0, constants.O_RDONLY],
      [1, constants.O_WRONLY],
    ] as const) {
      const opened = openSync(`/proc/${pid}/fd/${fd}`, mode | constants.O_NONBLOCK)
      fds.push(opened)
      if (!fstatSync(opened).isFIFO()) throw new Error('not a pipe')
    }
    const [input, output] = fds as [number, number]
    return {
      input: new Socket({ fd: input, readable: true, writable: false }),
      output: new Socket({ fd: output, readable: false, writable: true }),
    }
  } catch {
    for (const fd of fds) closeSync(fd)
    return undefined
  }
}

/** The first line that comes; undefined when the connection ends before. What follows it stays in the stream. */
function readLine(socket: Socket): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = ''
    const take = (): void => {
      for (let byte = socket.read(1); byte !== null; byte = socket.read(1)) {
        const character = (byte as Buffer).toString('latin1')
        if (character === '\n' || text.length === LONGEST_LINE) {
          done(text)
          return
        }
        text += character
      }
    }
    const gone = (): void => done(undefined)
    const done = (line: string | undefined): void => {
      socket.off('readable', take).off('end', gone).off('close', gone)
      resolve(line)
    }
    socket.on('readable', take).on('end', gone).on('close', gone)
  })
}
