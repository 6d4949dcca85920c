/** How far a push, pull or fetch has got. Whoever moves objects counts; whoever shows it looks. */
export class Tally {
  /** Objects that are to be moved, as far as they are known. */
  objects = 0
  /** Bytes of these. */
  bytes = 0
  /** False while git is still being read and more may come. */
  complete = false
  doneObjects = 0
  doneBytes = 0
  /** Objects that needed no moving: they are where they should be. */
  skipped = 0
  /** Objects that came out of a cache or another repository instead of over the network; among `doneObjects`. */
  cached = 0
  cachedBytes = 0
  failed = 0
  retries = 0
  /** Files of the work tree that were filled. */
  files = 0
  /** When it began, milliseconds of a clock that is never set. */
  readonly started: number = performance.now()

  get seconds(): number {
    return (performance.now() - this.started) / 1000
  }

  /** Bytes that went over the network, a second. */
  get rate(): number {
    return (this.doneBytes - this.cachedBytes) / Math.max(this.seconds, 0.001)
  }
}

/** The rate of the last few seconds, for people: it follows what the line does now. */
export class RecentRate {
  readonly #samples: { time: number; bytes: number }[] = []

  /** Bytes a second, from `bytes` in all at `time` (milliseconds) and what was said before. */
  add(time: number, bytes: number): number {
    const samples = this.#samples
    samples.push({ time, bytes })
    while (samples.length > 2 && time - (samples[0] as { time: number }).time > WINDOW) samples.shift()
    const first = samples[0] as { time: number; bytes: number }
    const ms = time - first.time
    return ms <= 0 ? 0 : Math.max(0, ((bytes - first.bytes) / ms) * 1000)
  }
}

/** Milliseconds. */
const WINDOW = 5000
