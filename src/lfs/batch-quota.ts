import type { ObjectName } from '../access/object-location.ts'
import { repositoryName } from '../repository.ts'
import { type CountedObject, exceeded, type Usage } from './usage.ts'
import type { ObjectError } from './wire.ts'

/** An object of an upload, and whether the store has it already. */
export interface AskedUpload {
  name: ObjectName
  present: boolean
}

/**
 * Which of `asked` have room in their repository, in the order asked: undefined where there is, else what the client is
 * told. Objects that are in the store but were never counted, as of clients that did not verify, are counted now.
 */
export async function admitUploads(
  usage: Usage,
  asked: readonly AskedUpload[],
): Promise<readonly (ObjectError | undefined)[]> {
  const first = asked[0]
  if (usage.quota === 0 || first === undefined) return asked.map(() => undefined)
  const repository = repositoryName(first.name.repository)
  const oids = asked.map(({ name }) => name.oid)
  const [counted, held] = await Promise.all([usage.counted(repository, oids), usage.bytes(repository)])
  let bytes = held
  const uncounted: CountedObject[] = []
  const answers = asked.map(({ name, present }): ObjectError | undefined => {
    const more = name.size - (counted.get(name.oid) ?? 0)
    if (more <= 0) return undefined
    if (bytes + more > usage.quota)
      return { code: 507, message: exceeded(repository, bytes + more, usage.quota).message }
    bytes += more
    if (present) uncounted.push({ oid: name.oid, size: name.size })
    return undefined
  })
  for (const object of uncounted) await usage.count(repository, object)
  return answers
}
