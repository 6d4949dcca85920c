import { isTrue, type LocalRepository } from './repository.ts'

/** The remote that a partial clone fetches left-out blobs from; undefined: this is no partial clone. */
export async function promisorRemote(repository: LocalRepository): Promise<string | undefined> {
  const config = await repository.config()
  for (const [key, value] of config) {
    const [, name] = /^remote\.(.+)\.promisor$/s.exec(key) ?? []
    if (name !== undefined && isTrue(value)) return name
  }
  return config.get('extensions.partialclone')
}

/**
 * Fetches blobs that a partial clone left out, all at once: left to itself git fetches each when it is read, with a
 * connection of its own. The same command that git runs.
 * @throws {TimoneError} `config` when the remote does not give them
 */
export async function fetchPromised(
  repository: LocalRepository,
  remote: string,
  blobs: readonly string[],
): Promise<void> {
  if (blobs.length === 0) return
  const args = [
    '--no-tags',
    '--no-write-fetch-head',
    '--recurse-submodules=no',
    '--filter=blob:none',
    '--stdin',
  ]
  await repository.git(['-c', 'fetch.negotiationAlgorithm=noop', 'fetch', '--quiet', remote, ...args], {
    input: blobs.map((blob) => `${blob}\n`).join(''),
  })
}
