import type { ListedObjects } from '../storage/object-store.ts'

/** What a listing found out about keys. */
export interface Listing {
  /** The object's size in bytes, `absent`, or undefined: the listing did not get there. */
  find(key: string): number | 'absent' | undefined
  /** Every object of its pages, with its size in bytes, also those that nobody asked for. */
  readonly sizes: ReadonlyMap<string, number>
  /** Share of the keys that one page answers for, 0 to 1. */
  readonly reach: number
}

/** A page of a listing costs a store about as much as this many look-ups of single objects. */
export const WORTH_A_PAGE = 16

/**
 * Lists the objects of a repository page by page, as long as each page answers for at least {@link WORTH_A_PAGE} of
 * `keys`. Those of one push are spread evenly over the repository, as hashes are: so a page of a small repository
 * answers for all of them, and one of a large repository for hardly any.
 * @param page gives the objects behind `after`; undefined: there is no listing to be had
 */
export async function listObjects(
  page: (after: string | undefined) => Promise<ListedObjects | undefined>,
  keys: readonly string[],
): Promise<Listing> {
  const sorted = [...keys].sort(byCodeUnits)
  const sizes = new Map<string, number>()
  let after: string | undefined
  let answered = 0
  let pages = 0
  let complete = false
  for (;;) {
    const found = await page(after)
    if (found === undefined) break
    pages++
    for (const { key, size } of found.objects) sizes.set(key, size)
    const last = found.objects.at(-1)?.key
    complete = !found.more || last === undefined
    const before = answered
    while (answered < sorted.length && (complete || (sorted[answered] as string) <= (last as string)))
      answered++
    if (complete || sorted.length - answered < WORTH_A_PAGE || answered - before < WORTH_A_PAGE) break
    // A store that gives no way on must not keep us.
    if (last === after) break
    after = last
  }
  const covered = new Set(sorted.slice(0, answered))
  return {
    sizes,
    find: (key) => (covered.has(key) ? (sizes.get(key) ?? 'absent') : undefined),
    reach: pages === 0 || sorted.length === 0 ? 0 : answered / pages / sorted.length,
  }
}

/** Keys of one repository differ in hexadecimal digits only, so any order of characters is that of the store. */
function byCodeUnits(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
