import { performance } from 'node:perf_hooks'

/** A download that may have more than one stream. */
export interface GovernedDownload {
  /** Streams at work now. */
  readonly streams: number
  /** Every stream has had a byte, so what arrives tells how fast they are. */
  readonly settled: boolean
  /** Bytes that have arrived so far, on all streams. */
  readonly arrived: number
  /** True when the first stream has its answer, one more is allowed, and it would find something to do. */
  readonly growable: boolean
  /** Starts one more stream. */
  grow(): void
}

/** Who says how many streams a download may have. */
export interface Governor {
  /** The download takes part until {@link leave}. */
  join(download: GovernedDownload): void
  leave(download: GovernedDownload): void
  /** False when one of the download's streams is one too many, and should end with its piece. */
  keeps(download: GovernedDownload): boolean
  /** The host has asked to slow down. */
  throttled(): void
  /** One of the streams was turned away or broke, and has ended. */
  refused(): void
}

/** The clock and the load that a {@link StreamGovernor} goes by. */
export interface Gauges {
  /** Milliseconds; never goes back. */
  now: () => number
  /** Share of the time, 0 to 1, that this thread has been busy since it was asked last. */
  load: () => number
}

/** Milliseconds between two looks. */
const TICK = 50
/** Milliseconds over which a rate is measured, at least and at most. */
const WINDOW = 150
const LONGEST_WINDOW = 1000
/** Bytes that make a rate worth believing; a shorter window than the longest one needs them. */
const ENOUGH = 2 * 2 ** 20
/** Milliseconds that new streams may take to their first byte before the others are measured without them. */
const SETTLE_LIMIT = 2000
/** Twice the streams are kept when they bring so much more, as a share. */
const LEAST_GAIN = 0.15
/** Streams that bring this share of what the others do are not the last that can. */
const FULL_SHARE = 0.8
/** This thread cannot take more: another stream would only cost. */
const FULL_LOAD = 0.85
/** Bytes a second of one stream above which the connection is not what limits it. */
const FAST = 250e6
/** Milliseconds before more streams are tried again, where the last try was in vain. */
const FIRST_PAUSE = 2000
const LONGEST_PAUSE = 30_000
/** The same where nothing was tried. */
const IDLE_PAUSE = 1000

/** The load of this thread and the process's own clock. */
function processGauges(): Gauges {
  let last = performance.eventLoopUtilization()
  return {
    now: () => performance.now(),
    load: () => {
      const now = performance.eventLoopUtilization()
      const { utilization } = performance.eventLoopUtilization(now, last)
      last = now
      return utilization
    },
  }
}

/**
 * How many streams fetch large objects from one host. Every object has one; more are added, twice as many each time,
 * while all of them together then bring clearly more, and are given up again where they do not. So a line that limits
 * each connection is filled within a second, and one that is fast anyway is left with one stream for each object.
 */
export class StreamGovernor implements Governor {
  /** Streams of all downloads together, beyond one for each. */
  readonly #most: number
  readonly #gauges: Gauges
  readonly #downloads = new Set<GovernedDownload>()
  #timer: NodeJS.Timeout | undefined
  /** Streams that have proved their worth, or are on trial. */
  #target = 1
  /** How many times as many streams are tried next: more where the last ones brought their full share. */
  #factor = 2
  /** What there was before the streams on trial. */
  #before: { streams: number; rate: number } | undefined
  #phase: 'settling' | 'measuring' | 'pausing' = 'settling'
  #since = 0
  #arrivedBefore = 0
  #pauseUntil = 0
  #pause = FIRST_PAUSE
  #troubleAt = Number.NEGATIVE_INFINITY

  constructor(most: number, gauges: Gauges = processGauges()) {
    this.#most = most
    this.#gauges = gauges
  }

  join(download: GovernedDownload): void {
    this.#downloads.add(download)
    this.#beginAnew()
    this.#timer ??= setInterval(() => this.tick(), TICK)
  }

  leave(download: GovernedDownload): void {
    this.#downloads.delete(download)
    this.#beginAnew()
    if (this.#downloads.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  keeps(download: GovernedDownload): boolean {
    return download.streams <= 1 || this.#streams() <= this.#target
  }

  /** Half the streams. Heard by many streams at once it counts once. */
  throttled(): void {
    if (this.#isEcho()) return
    this.#target = Math.max(1, Math.floor(this.#streams() / 2))
    this.#giveUp(this.#gauges.now())
  }

  refused(): void {
    this.#target = Math.max(1, Math.min(this.#target, this.#streams() - 1))
    if (!this.#isEcho()) this.#giveUp(this.#gauges.now())
  }

  /** True within a second of the last trouble: many streams meet the same one. */
  #isEcho(): boolean {
    const now = this.#gauges.now()
    if (now - this.#troubleAt < 1000) return true
    this.#troubleAt = now
    return false
  }

  /** Looks at what has arrived, and acts on it. Called by the timer. */
  tick(): void {
    const now = this.#gauges.now()
    this.#distribute()
    if (this.#phase === 'settling') {
      const settled = [...this.#downloads].every((download) => download.settled)
      if (settled || now - this.#since > SETTLE_LIMIT) this.#measure(now)
    } else if (this.#phase === 'measuring') {
      const span = now - this.#since
      const bytes = this.#arrived() - this.#arrivedBefore
      if (span >= WINDOW && (bytes >= ENOUGH || span >= LONGEST_WINDOW))
        this.#judge(now, (bytes / span) * 1000)
    } else if (now >= this.#pauseUntil) {
      this.#measure(now)
    }
  }

  #judge(now: number, rate: number): void {
    const streams = this.#streams()
    const before = this.#before
    this.#before = undefined
    if (before !== undefined) {
      const growth = streams / before.streams - 1
      if (rate < before.rate * (1 + LEAST_GAIN * Math.min(1, growth))) {
        this.#target = before.streams
        this.#giveUp(now)
        return
      }
      this.#pause = FIRST_PAUSE
      this.#target = Math.max(this.#target, streams)
      this.#factor = rate > FULL_SHARE * (1 + growth) * before.rate ? 4 : 2
    }
    const enough = this.#gauges.load() > FULL_LOAD || rate > FAST * streams || this.#target >= this.#most
    const growable = [...this.#downloads].some((download) => download.growable)
    if (enough || !growable) {
      this.#phase = 'pausing'
      this.#pauseUntil = now + IDLE_PAUSE
      return
    }
    this.#target = Math.min(this.#most, this.#factor * streams)
    this.#before = { streams, rate }
    this.#settle()
    this.#distribute()
  }

  /** Opens the streams that are allowed and missing, first where there are fewest. */
  #distribute(): void {
    for (let missing = this.#target - this.#streams(); missing > 0; missing--) {
      let neediest: GovernedDownload | undefined
      for (const download of this.#downloads) {
        if (!download.growable) continue
        if (neediest === undefined || download.streams < neediest.streams) neediest = download
      }
      if (neediest === undefined) return
      neediest.grow()
    }
  }

  /** Other objects, other rates: what was on trial has to be tried again. */
  #beginAnew(): void {
    if (this.#before !== undefined) this.#target = this.#before.streams
    this.#before = undefined
    if (this.#phase !== 'pausing') this.#settle()
  }

  #giveUp(now: number): void {
    this.#before = undefined
    this.#factor = 2
    this.#phase = 'pausing'
    this.#pauseUntil = now + this.#pause
    this.#pause = Math.min(LONGEST_PAUSE, 2 * this.#pause)
  }

  #settle(): void {
    this.#phase = 'settling'
    this.#since = this.#gauges.now()
  }

  #measure(now: number): void {
    this.#phase = 'measuring'
    this.#since = now
    this.#arrivedBefore = this.#arrived()
    // What was before the window does not count.
    this.#gauges.load()
  }

  #streams(): number {
    let sum = 0
    for (const download of this.#downloads) sum += download.streams
    return sum
  }

  #arrived(): number {
    let sum = 0
    for (const download of this.#downloads) sum += download.arrived
    return sum
  }
}

/** Streams to one host for all objects together, where no object alone may have more. */
const MOST_STREAMS = 32

/** One {@link StreamGovernor} for each host. */
export class StreamGovernors {
  readonly #most: number
  readonly #governors = new Map<string, StreamGovernor>()

  /** @param parallelParts streams that one object may have */
  constructor(parallelParts: number) {
    this.#most = Math.max(MOST_STREAMS, parallelParts)
  }

  for(host: string): StreamGovernor {
    const governor = this.#governors.get(host) ?? new StreamGovernor(this.#most)
    this.#governors.set(host, governor)
    return governor
  }
}
