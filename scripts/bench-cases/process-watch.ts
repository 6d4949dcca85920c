import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { basename } from 'node:path'

/** What timone's own processes took, all of them together. */
export interface Taken {
  /** CPU seconds, user and system. */
  cpu: number
  /** Highest sum of resident memory at any moment, MiB: pages that processes share count for each of them. */
  rss: number
  /** The same with shared pages counted once (proportional set size): what they really occupy. */
  pss: number
  /** The most that there were at any moment. */
  processes: number
}

const TICKS_PER_SECOND = 100
const PAGE = 4096
const MIB = 2 ** 20
/** Milliseconds. */
const EVERY = 20
/** A process's page tables are walked for its PSS, which costs a millisecond: only when memory has grown, and now and then. */
const PSS_EVERY = { grown: 100, else: 1000 }
/** A process is looked at anew for so long: it may not have become what it will be. */
const YOUNG = 1000

/**
 * Watches the processes of timone that descend from the commands of one user's home folder, however they came to be: an
 * agent started by git-lfs, or an engine that detached itself, which is why the parents' accounts (wait4) do not do, and
 * a control group does not either, as git-lfs would be in it. Ours are those with that HOME whose program is Node.js
 * (git and git-lfs are none) or a standalone timone.
 *
 * /proc is read every 20 ms. The last CPU time that was seen of a process counts: up to 20 ms of each are lost, and memory
 * that is held for less than that. Reading takes a few per cent of a core, whoever is measured. New processes are found by the newest process id, as listing /proc takes milliseconds.
 */
export class ProcessWatch {
  readonly #home: string
  /** Ours, with the CPU time that was last seen, in ticks. */
  readonly #ours = new Map<number, number>()
  /** Processes that may become ours, and until when. */
  readonly #young = new Map<number, number>()
  #newest = 0
  #timer: NodeJS.Timeout | undefined
  #lastPss = { at: 0, rss: 0 }
  #rss = 0
  #pss = 0
  #processes = 0
  #running: number[] = []

  constructor(home: string) {
    this.#home = home
  }

  start(): void {
    this.#newest = newestId()
    this.#timer = setInterval(() => this.#look(), EVERY)
  }

  /** Process ids of ours that run now. */
  running(): number[] {
    this.#look()
    return this.#running
  }

  /** Ends the watch once none of ours runs any more, or after `patience` ms. */
  async stop(patience = 3000): Promise<Taken> {
    const until = performance.now() + patience
    while (this.running().length > 0 && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, EVERY))
    clearInterval(this.#timer)
    if (this.#running.length > 0)
      process.stderr.write(`  still running ${patience} ms later: ${this.#running.join(' ')}\n`)
    let ticks = 0
    for (const one of this.#ours.values()) ticks += one
    return {
      cpu: ticks / TICKS_PER_SECOND,
      rss: this.#rss / MIB,
      pss: this.#pss / MIB,
      processes: this.#processes,
    }
  }

  #look(): void {
    const now = performance.now()
    this.#discover(now)
    let rss = 0
    const running: number[] = []
    for (const pid of this.#ours.keys()) {
      try {
        const fields = statOf(pid)
        this.#ours.set(pid, Number(fields[11]) + Number(fields[12]))
        if (fields[0] === 'Z') continue
        running.push(pid)
        rss += Number(fields[21]) * PAGE
      } catch {
        // It has ended.
      }
    }
    this.#running = running
    this.#rss = Math.max(this.#rss, rss)
    this.#processes = Math.max(this.#processes, running.length)
    const since = now - this.#lastPss.at
    if (running.length > 0 && since >= (rss > this.#lastPss.rss ? PSS_EVERY.grown : PSS_EVERY.else)) {
      this.#lastPss = { at: now, rss }
      this.#pss = Math.max(this.#pss, pssOf(running))
    }
  }

  #discover(now: number): void {
    const newest = newestId()
    if (newest < this.#newest) {
      // The numbers have begun anew.
      for (const name of readdirSync('/proc'))
        if (Number(name) > 0) this.#young.set(Number(name), now + YOUNG)
    } else {
      for (let pid = this.#newest + 1; pid <= newest; pid++) this.#young.set(pid, now + YOUNG)
    }
    this.#newest = newest
    for (const [pid, until] of this.#young) {
      const ours = this.#isOurs(pid)
      if (ours) this.#ours.set(pid, 0)
      if (ours || ours === undefined || now > until) this.#young.delete(pid)
    }
  }

  /** Undefined: it is no process, or no longer. */
  #isOurs(pid: number): boolean | undefined {
    if (this.#ours.has(pid)) return undefined
    try {
      const program = basename(readlinkSync(`/proc/${pid}/exe`))
      if (program !== 'node' && !program.startsWith('timone')) return false
      // Threads have numbers and folders of the same kind.
      if (!readFileSync(`/proc/${pid}/status`, 'latin1').includes(`\nTgid:\t${pid}\n`)) return undefined
      return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(`HOME=${this.#home}`)
    } catch {
      return undefined
    }
  }
}

/** The newest number that a process or thread was given. */
function newestId(): number {
  return Number(readFileSync('/proc/loadavg', 'latin1').trim().split(' ').at(-1))
}

/** The fields from the state on, as in proc(5): the name before it, in brackets, may hold anything. */
function statOf(pid: number | 'self'): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')
}

function pssOf(pids: number[]): number {
  let bytes = 0
  for (const pid of pids) {
    try {
      const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1')
      bytes += Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0) * 1024
    } catch {
      // It has ended.
    }
  }
  return bytes
}

/** CPU seconds of all children of this process that have ended, and of theirs. */
export function childrenCpu(): number {
  const fields = statOf('self')
  return (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND
}

/** CPU seconds of a running process so far. */
export function processCpu(pid: number): number {
  const fields = statOf(pid)
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}
