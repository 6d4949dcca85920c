import { describe, expect, test } from 'vitest'
import { type GovernedDownload, StreamGovernor, StreamGovernors } from '../../src/agent/stream-governor.ts'

const MB = 1e6

/** What a line lets through, bytes a second, for so many streams together. */
type Line = (streams: number) => number
const capped =
  (perStream: number, all = Number.POSITIVE_INFINITY): Line =>
  (streams) =>
    Math.min(all, streams * perStream)

/** Downloads over a line, in simulated time. */
class World {
  time = 0
  load = 0.3
  /** Milliseconds from the start of a stream to its first byte. */
  roundTrip = 100
  line: Line
  readonly governor: StreamGovernor
  readonly downloads: Download[] = []

  constructor(line: Line, most = 32) {
    this.line = line
    this.governor = new StreamGovernor(most, { now: () => this.time, load: () => this.load })
  }

  add(most = 16, left = Number.POSITIVE_INFINITY): Download {
    const download = new Download(this, most, left)
    this.downloads.push(download)
    this.governor.join(download)
    return download
  }

  end(download: Download): void {
    this.downloads.splice(this.downloads.indexOf(download), 1)
    this.governor.leave(download)
  }

  get streams(): number {
    return this.downloads.reduce((sum, { streams }) => sum + streams, 0)
  }

  /** Lets `ms` milliseconds pass; gives the most streams there were. */
  run(ms: number): number {
    let most = 0
    for (const until = this.time + ms; this.time < until; this.time += 50) {
      const flowing = this.downloads.flatMap((download) => download.started.filter((at) => this.time >= at))
      const each = flowing.length === 0 ? 0 : this.line(flowing.length) / flowing.length
      for (const download of this.downloads) {
        download.arrived += download.started.filter((at) => this.time >= at).length * each * 0.05
        // A stream that is one too many ends with its piece: here, at once.
        if (!this.governor.keeps(download)) download.started.pop()
      }
      this.governor.tick()
      most = Math.max(most, this.streams)
    }
    return most
  }

  /** Ends the timer of the real clock. */
  close(): void {
    for (const download of [...this.downloads]) this.end(download)
  }
}

class Download implements GovernedDownload {
  readonly #world: World
  readonly #most: number
  arrived = 0
  readonly started: number[]
  usable: number

  constructor(world: World, most: number, usable: number) {
    this.#world = world
    this.#most = most
    this.usable = usable
    this.started = [world.time + world.roundTrip]
  }
  get streams(): number {
    return this.started.length
  }
  get settled(): boolean {
    return this.started.every((at) => this.#world.time >= at)
  }
  get growable(): boolean {
    return this.streams < Math.min(this.#most, this.usable)
  }
  grow(): void {
    this.started.push(this.#world.time + this.#world.roundTrip)
  }
}

function inWorld(line: Line, use: (world: World) => void, most?: number): void {
  const world = new World(line, most)
  try {
    use(world)
  } finally {
    world.close()
  }
}

describe('StreamGovernor', () => {
  test('fills a line that limits each connection within about a second', () => {
    inWorld(capped(20 * MB), (world) => {
      world.add()
      world.run(1200)
      expect(world.streams).toBe(16)
      world.run(20_000)
      expect(world.streams).toBe(16)
    })
  })

  test('leaves a line that is fast anyway with one stream', () => {
    inWorld(capped(450 * MB, 450 * MB), (world) => {
      world.add()
      expect(world.run(20_000)).toBe(1)
    })
  })

  test('tries two where one already has the whole line, and goes back to one', () => {
    inWorld(capped(100 * MB, 100 * MB), (world) => {
      world.add()
      expect(world.run(1000)).toBe(2)
      expect(world.streams).toBe(1)
      // Each further try comes later than the last one.
      let busy = 0
      for (let second = 0; second < 60; second++) if (world.run(1000) > 1) busy++
      expect(busy).toBeGreaterThan(1)
      expect(busy).toBeLessThan(8)
    })
  })

  test('keeps as many as bring more, and no more', () => {
    inWorld(capped(20 * MB, 90 * MB), (world) => {
      world.add()
      world.run(3000)
      expect(world.streams).toBeGreaterThanOrEqual(4)
      expect(world.streams).toBeLessThanOrEqual(8)
    })
  })

  test('adds none while this thread has no time for more', () => {
    inWorld(capped(20 * MB), (world) => {
      world.load = 0.95
      world.add()
      expect(world.run(5000)).toBe(1)
      world.load = 0.4
      world.run(3000)
      expect(world.streams).toBe(16)
    })
  })

  test('eight objects share what one would have, each with a stream at least', () => {
    inWorld(capped(20 * MB), (world) => {
      for (let number = 0; number < 8; number++) world.add()
      expect(world.run(5000)).toBeLessThanOrEqual(32)
      expect(world.downloads.map(({ streams }) => streams)).toEqual(Array(8).fill(4))
    })
    inWorld(capped(100 * MB, 300 * MB), (world) => {
      for (let number = 0; number < 8; number++) world.add()
      expect(world.run(5000)).toBeLessThanOrEqual(16)
      expect(world.streams).toBe(8)
    })
  })

  test('what has proved its worth is there for the next object at once', () => {
    inWorld(capped(20 * MB), (world) => {
      const first = world.add()
      world.run(3000)
      world.end(first)
      const second = world.add()
      world.run(200)
      expect(second.streams).toBe(16)
    })
  })

  test('an object that ends leaves its streams to the others', () => {
    inWorld(capped(20 * MB), (world) => {
      const [first, second] = [world.add(), world.add()]
      world.run(3000)
      expect(second.streams).toBe(16)
      world.end(first)
      world.run(200)
      expect(second.streams).toBe(16)
    })
  })

  test('an object that can use no more gets no more', () => {
    inWorld(capped(20 * MB), (world) => {
      world.add(16, 3)
      expect(world.run(5000)).toBe(3)
    })
    inWorld(capped(20 * MB), (world) => {
      world.add(1)
      expect(world.run(5000)).toBe(1)
    })
  })

  test('half as many when the host asks to slow down, however many streams hear it, and more again later', () => {
    inWorld(capped(20 * MB), (world) => {
      world.add()
      world.run(3000)
      for (let stream = 0; stream < 16; stream++) world.governor.throttled()
      world.run(1000)
      expect(world.streams).toBe(8)
      world.run(60_000)
      expect(world.streams).toBe(16)
    })
  })

  test('a stream that is turned away is not opened again at once', () => {
    inWorld(capped(20 * MB), (world) => {
      const download = world.add()
      world.run(3000)
      download.started.pop()
      world.governor.refused()
      expect(world.run(1500)).toBeLessThanOrEqual(15)
    })
  })

  test('streams that never bring a byte do not stop the others from being measured', () => {
    inWorld(capped(20 * MB), (world) => {
      world.add().started.push(Number.POSITIVE_INFINITY)
      world.run(10_000)
      expect(world.streams).toBeGreaterThan(4)
    })
  })
})

test('each host has a governor of its own', () => {
  const governors = new StreamGovernors(16)
  expect(governors.for('a')).toBe(governors.for('a'))
  expect(governors.for('b')).not.toBe(governors.for('a'))
})
