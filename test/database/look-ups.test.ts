import { expect, test } from 'vitest'
import { LookUps } from '../../src/database/look-ups.ts'

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Look-ups in `rows`; queries end when `answer` is called. */
function make(most?: number) {
  const rows = new Map([
    ['a', 1],
    ['b', 2],
  ])
  const queries: { keys: string[]; answer: () => void; fail: (error: Error) => void }[] = []
  const lookUps = new LookUps<string, number>(
    (keys) =>
      new Promise((resolve, fail) => {
        // What is committed when the query begins.
        const seen = new Map(rows)
        queries.push({ keys: [...keys], answer: () => resolve(seen), fail })
      }),
    (key) => key,
    most,
  )
  return { rows, queries, lookUps }
}

test('those who ask at once share a query, and each gets their own row', async () => {
  const { queries, lookUps } = make()
  const found = Promise.all(['a', 'b', 'c', 'a'].map((key) => lookUps.find(key)))
  await turn()
  expect(queries.map(({ keys }) => keys)).toEqual([['a', 'b', 'c']])
  queries[0]?.answer()
  expect(await found).toEqual([1, 2, undefined, 1])
})

test('nobody is answered by a query that began before they asked', async () => {
  const { rows, queries, lookUps } = make()
  const before = lookUps.find('a')
  await turn()
  rows.delete('a')
  const after = lookUps.find('a')
  await turn()
  queries[0]?.answer()
  queries[1]?.answer()
  expect(await before).toBe(1)
  expect(await after).toBeUndefined()
  expect(queries.length).toBe(2)
})

test('two queries at once at most, then one for all who waited', async () => {
  const { queries, lookUps } = make()
  const found = []
  for (const key of ['a', 'b', 'c', 'd', 'e']) {
    found.push(lookUps.find(key))
    await turn()
  }
  expect(queries.map(({ keys }) => keys)).toEqual([['a'], ['b']])
  queries[0]?.answer()
  await turn()
  await turn()
  expect(queries.map(({ keys }) => keys)).toEqual([['a'], ['b'], ['c', 'd', 'e']])
  queries[1]?.answer()
  queries[2]?.answer()
  expect(await Promise.all(found)).toEqual([1, 2, undefined, undefined, undefined])
})

test('a query has so many keys at most; the rest is asked for as well', async () => {
  const { queries, lookUps } = make(2)
  const found = Promise.all(['a', 'b', 'c'].map((key) => lookUps.find(key)))
  await turn()
  await turn()
  expect(queries.map(({ keys }) => keys)).toEqual([['a', 'b'], ['c']])
  for (const { answer } of queries) answer()
  expect(await found).toEqual([1, 2, undefined])
})

test('a failure reaches all who share the query, and nobody later', async () => {
  const { queries, lookUps } = make()
  const found = Promise.allSettled(['a', 'b'].map((key) => lookUps.find(key)))
  await turn()
  queries[0]?.fail(new Error('away'))
  expect((await found).map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  const again = lookUps.find('a')
  await turn()
  queries[1]?.answer()
  expect(await again).toBe(1)
})
