import type { Database } from '../database/connect.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Lease, LeaseKey, LeaseSource, Minted } from './lease.ts'
import { type LeaseRow, type LeaseStore, nameOf } from './lease-store.ts'

/** Milliseconds that a source has to answer: well under the longest life of a lock. */
const MINT_TIMEOUT = 10_000
/** Milliseconds for which a credential that was just minted is not asked for again, whoever doubts it. */
const SETTLED = 5_000

export interface LeaseBrokerOptions {
  store: LeaseStore
  /** Where renewals of one lease wait for each other, over all processes. */
  database: Pick<Database, 'lock'>
  sources: ReadonlyMap<string, LeaseSource>
  /** Milliseconds since the epoch. */
  now?: () => number
  /** Milliseconds that a source has to answer. */
  timeout?: number
}

/**
 * Hands out credentials that somebody else issued: from the table while they live long enough, otherwise renewed, once
 * for all who wait, in this process and in all others on the same database.
 *
 * A renewal holds a lock over the call to the source. Sources that rotate refresh tokens take a second use of one for
 * theft and revoke the whole family (RFC 9700, section 4.14.2), so two renewals at once would end the lease for good.
 */
export class LeaseBroker {
  readonly #options: LeaseBrokerOptions
  readonly #now: () => number
  /** Renewals under way in this process: whoever else wants the lease waits here, not on a connection. */
  readonly #flights = new Map<string, Promise<Lease>>()

  constructor(options: LeaseBrokerOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
  }

  /**
   * A credential that is good now.
   * @param fresh its holder was refused with the one at hand: renew it, unless that has just been done
   * @throws {TimoneError} `lease_broken` when only its owner can put it right; `upstream` or `throttled` when its source
   * is away; `not_found` for a source that there is not
   */
  async lease(key: LeaseKey, { fresh = false }: { fresh?: boolean } = {}): Promise<Lease> {
    const row = await this.#options.store.find(key)
    const ready = this.#ready(key, row, fresh)
    if (ready !== undefined) return ready

    const name = nameOf(key)
    const flying = this.#flights.get(name)
    if (flying !== undefined) return flying
    const flight = this.#options.database
      .lock(`lease ${name}`, () => this.#renew(key, row, fresh))
      .finally(() => this.#flights.delete(name))
    this.#flights.set(name, flight)
    return flight
  }

  /** Begins a lease, or begins it anew, with what its owner consented to. */
  async keep(key: LeaseKey, minted: Minted): Promise<void> {
    this.#source(key)
    // Waits for a renewal under way, which would otherwise overwrite the new tokens with those of the old family.
    await this.#options.database.lock(`lease ${nameOf(key)}`, () => this.#options.store.save(key, minted))
  }

  /**
   * Ends a lease. `revoke` is given its tokens first, to take them back at the source; the row goes whatever comes of it.
   * @returns false when there was none
   */
  async end(
    key: LeaseKey,
    revoke: (secrets: ReturnType<LeaseStore['secrets']>) => Promise<void> = async () => {},
  ): Promise<boolean> {
    return this.#options.database.lock(`lease ${nameOf(key)}`, async () => {
      const row = await this.#options.store.find(key)
      if (row === undefined) return false
      try {
        await revoke(this.#options.store.secrets(row))
      } finally {
        await this.#options.store.remove(key)
      }
      return true
    })
  }

  /**
   * Renews what was not used for `idle` milliseconds, so that no refresh token dies of old age.
   * @returns how many were renewed, and the failures
   */
  async renewUnused(
    idle: number,
  ): Promise<{ renewed: number; failures: { key: LeaseKey; error: unknown }[] }> {
    const failures: { key: LeaseKey; error: unknown }[] = []
    const keys = await this.#options.store.unused(this.#now() - idle)
    for (const key of keys.filter(({ source }) => this.#options.sources.has(source))) {
      try {
        await this.lease(key, { fresh: true })
      } catch (error) {
        failures.push({ key, error })
      }
    }
    return { renewed: keys.length - failures.length, failures }
  }

  /** Removes what has expired and can be minted again whenever somebody asks. Gives the number. */
  async removeExpired(): Promise<number> {
    const { store, sources } = this.#options
    const minted = [...sources].filter(([, { needsConsent }]) => !needsConsent)
    return store.removeExpired(
      minted.map(([name]) => name),
      this.#now(),
    )
  }

  /** Under the lock. @param seen the row as it was before the lock */
  async #renew(key: LeaseKey, seen: LeaseRow | undefined, fresh: boolean): Promise<Lease> {
    const { store, timeout = MINT_TIMEOUT } = this.#options
    const row = await store.find(key)
    // Somebody else renewed it while we waited: that is fresh enough for everyone.
    const renewed = row?.access_token !== seen?.access_token
    const ready = this.#ready(key, row, fresh && !renewed)
    if (ready !== undefined) return ready

    const source = this.#source(key)
    const old = row === undefined ? undefined : store.secrets(row)
    const signal = AbortSignal.timeout(timeout)
    let minted: Minted
    try {
      const { owner, resource } = key
      const call = source.mint({ owner, resource, refreshToken: old?.refreshToken, signal })
      minted = await withDeadline(call, signal, key.source)
    } catch (error) {
      if (isTimoneError(error, 'lease_broken')) {
        await store.markBroken(key, error.message)
        throw broken(error.message, source)
      }
      // The row stays as it is, and what is left of it is better than nothing.
      const left = row === undefined || fresh ? undefined : this.#alive(row, 0)
      if (left !== undefined && isTimoneError(error) && error.retryable) return left
      throw error
    }
    // On disk before anybody sees the access token: a rotated refresh token that is lost cannot be had again.
    return store.save(key, minted, row)
  }

  /** What the row alone answers. @throws {TimoneError} `lease_broken` */
  #ready(key: LeaseKey, row: LeaseRow | undefined, fresh: boolean): Lease | undefined {
    const source = this.#source(key)
    if (row === undefined) {
      if (source.needsConsent) throw new TimoneError('lease_broken', `nothing is stored: ${source.remedy}`)
      return undefined
    }
    if (source.needsConsent && row.state !== 'active') throw broken(row.error ?? 'it is broken', source)
    const settled = this.#now() - Date.parse(row.updated_at) < SETTLED
    const renewable = !source.needsConsent || row.refresh_token !== null
    const alive = this.#alive(row, renewable ? source.renewBefore : 0)
    if (alive !== undefined && (!fresh || settled || !renewable)) return alive
    if (!renewable) throw broken('it has expired and came without a refresh token', source)
    return undefined
  }

  /** The row's credential if it lives for `margin` seconds more; of a short life, half is always used. */
  #alive(row: LeaseRow, margin: number): Lease | undefined {
    if (row.expires_at !== null) {
      const end = Date.parse(row.expires_at)
      const life = end - Date.parse(row.updated_at)
      if (end - this.#now() <= Math.min(margin * 1000, life / 2)) return undefined
    }
    return this.#options.store.lease(row)
  }

  #source({ source: name }: LeaseKey): LeaseSource {
    const source = this.#options.sources.get(name)
    if (source === undefined) throw new TimoneError('not_found', `there is no provider ${name}`)
    return source
  }
}

function broken(reason: string, { remedy }: LeaseSource): TimoneError {
  return new TimoneError('lease_broken', `${reason}: ${remedy}`)
}

/** A source that ignores its signal must not keep the lock. */
async function withDeadline<T>(call: Promise<T>, signal: AbortSignal, name: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = (): void =>
      reject(new TimoneError('upstream', `${name} did not answer in time: try again later`))
    signal.addEventListener('abort', late, { once: true })
    call.then(resolve, reject).finally(() => signal.removeEventListener('abort', late))
  })
}
