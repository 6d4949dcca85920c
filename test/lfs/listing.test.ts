import { describe, expect, test } from 'vitest'
import { listObjects } from '../../src/lfs/listing.ts'
import { Presence } from '../../src/lfs/presence.ts'
import type { ListedObjects, ObjectStore } from '../../src/storage/object-store.ts'
import { fakeStore } from '../server/harness.ts'

const PREFIX = 'org/repo/'
const key = (number: number): string => `${PREFIX}${number.toString(16).padStart(6, '0')}`
const spread = (count: number, offset = 0): string[] =>
  Array.from({ length: count }, (_, at) => key(Math.floor(((at + 0.5) / count) * 2 ** 24) + offset))

/** A store that holds `there`, lists them `page` at a time, and counts what it is asked. */
function listed(there: ReadonlyMap<string, number>, page = 1000, refuses = false) {
  const asked = { pages: 0, heads: [] as string[] }
  const store: ObjectStore = fakeStore({
    head: async (one) => {
      asked.heads.push(one)
      const size = there.get(one)
      return size === undefined ? undefined : { size, etag: '"e"' }
    },
    list: async (prefix, { after }): Promise<ListedObjects> => {
      asked.pages++
      if (refuses) throw new Error('denied')
      const rest = [...there.keys()]
        .sort()
        .filter((one) => one.startsWith(prefix) && (after === undefined || one > after))
      const objects = rest.slice(0, page).map((one) => ({ key: one, size: there.get(one) as number }))
      return { objects, more: rest.length > page }
    },
  })
  return { asked, presence: new Presence({ store }), store }
}

const stored = (keys: readonly string[], size = 5): Map<string, number> =>
  new Map(keys.map((one) => [one, size]))

describe('a listing in place of many look-ups', () => {
  test('an upload believes it of what is absent, and looks at what it says is there', async () => {
    const there = spread(40)
    const absent = spread(60, 1)
    const { presence, asked } = listed(stored(there))
    const sizes = await presence.sizes([...there, ...absent], { prefix: PREFIX })
    expect(sizes).toEqual([...there.map(() => 5), ...absent.map(() => undefined)])
    expect(asked.pages).toBe(1)
    expect(asked.heads.sort()).toEqual([...there].sort())
  })

  test('a download believes it of what is there with the right size, and looks at everything else', async () => {
    const there = spread(40)
    const [wrong] = there
    const absent = spread(3, 1)
    const keys = [...there, ...absent]
    const { presence, asked } = listed(stored(there))
    const recent = keys.map((one) => (one === wrong ? 6 : 5))
    const sizes = await presence.sizes(keys, { prefix: PREFIX, recent })
    expect(sizes).toEqual([...there.map(() => 5), ...absent.map(() => undefined)])
    expect(asked.heads.sort()).toEqual([wrong as string, ...absent].sort())
  })

  test('the next batches of a download are answered by the pages of the first', async () => {
    const there = stored(spread(1500))
    const { presence, asked } = listed(there)
    const keys = [...there.keys()]
    const batch = (some: string[]) => presence.sizes(some, { prefix: PREFIX, recent: some.map(() => 5) })
    await batch(keys.filter((_, at) => at % 15 === 0))
    expect(asked).toEqual({ pages: 2, heads: [] })
    expect(await batch(keys)).toEqual(keys.map(() => 5))
    expect(asked).toEqual({ pages: 2, heads: [] })
    // Another size than the pages had: it may have been healed meanwhile.
    there.set(keys[7] as string, 6)
    expect(await presence.sizes([keys[7] as string], { prefix: PREFIX, recent: [6] })).toEqual([6])
  })

  test('what a listing says is gone no longer counts as seen', async () => {
    const there = stored(spread(40))
    const { presence, asked } = listed(there)
    const recent = spread(40).map(() => 5)
    // Looked up one by one, and remembered.
    await presence.sizes(spread(40), { recent })
    there.clear()
    await presence.sizes(spread(40), { prefix: PREFIX })
    asked.heads.length = 0
    expect(await presence.sizes(spread(40), { recent })).toEqual(spread(40).map(() => undefined))
    expect(asked.heads).toHaveLength(40)
  })

  test('few objects, and stores that do not let us list, are looked up one by one', async () => {
    const few = listed(stored(spread(5)))
    await few.presence.sizes(spread(15, 1), { prefix: PREFIX })
    expect(few.asked).toMatchObject({ pages: 0 })
    const closed = listed(stored(spread(50)), 1000, true)
    const sizes = await closed.presence.sizes(spread(50), { prefix: PREFIX })
    expect(sizes).toEqual(spread(50).map(() => 5))
    // Asked once a minute whether that has changed, not for each request.
    await closed.presence.sizes(spread(50), { prefix: PREFIX })
    expect(closed.asked.pages).toBe(1)
  })

  test('page after page while each answers for many; a large repository is left alone', async () => {
    const medium = listed(stored(spread(5000)))
    expect(await medium.presence.sizes(spread(500, 1), { prefix: PREFIX })).toEqual(
      spread(500).map(() => undefined),
    )
    expect(medium.asked).toEqual({ pages: 5, heads: [] })
    const large = listed(stored(spread(100_000)))
    await large.presence.sizes(spread(100, 1), { prefix: PREFIX })
    await large.presence.sizes(spread(100, 1), { prefix: PREFIX })
    expect(large.asked.pages).toBe(1)
    expect(large.asked.heads.length).toBeGreaterThan(190)
  })

  test('a store that goes in circles does not keep us', async () => {
    const objects = spread(100).map((one) => ({ key: one, size: 1 }))
    let pages = 0
    const found = await listObjects(async () => {
      pages++
      return { objects: objects.slice(0, 50), more: true }
    }, spread(100))
    expect(pages).toBeLessThan(3)
    expect(found.find(spread(100)[0] as string)).toBe(1)
    expect(found.find(spread(100)[99] as string)).toBeUndefined()
  })
})
