import { mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { batch } from '../../test/helpers/agent.ts'
import { lfsObject } from '../../test/helpers/world.ts'
import type { BenchCase } from './bench-case.ts'
import { contest } from './contest.ts'
import type { DataSetName } from './data-set.ts'
import type { Measured, Stage } from './stage.ts'
import { expectStored, mustOf, oursFor } from './transfer.ts'

/** Ratios that must hold against curl: its time is the raw limit, so less than 1. */
const RATIOS: Record<string, number> = {
  'push 1gib': 1 / 1.25,
  'fetch 1gib': 1 / 1.6,
  'push small': 1 / 1.3,
  'fetch small': 1 / 2,
}

/**
 * The bare transfer of a data set by curl, 64 at once, with the URLs that the server signs for a plain git-lfs: no Batch call,
 * no reading of pointers, no verify, no hash (the store still checks what is pushed), a large object in one stream.
 */
async function curl(stage: Stage, job: 'push' | 'fetch', set: DataSetName): Promise<Measured> {
  const prepared = await stage.dataSet(set)
  const repository = job === 'push' ? stage.newRepository() : await stage.seed(set)
  const target = stage.world.path('curl')
  await mkdir(target)
  const operation = job === 'push' ? 'upload' : 'download'
  const sections: string[] = []
  for (let at = 0; at < prepared.files.length; at += 100) {
    const asked = prepared.files.slice(at, at + 100)
    for (const { oid, actions } of await batch(
      stage.servers.loopback,
      stage.token,
      operation,
      asked,
      repository,
      ['basic'],
    )) {
      const action = actions?.[operation]
      if (action === undefined) throw new Error(`the server gives no URL for the ${operation} of ${oid}`)
      const file =
        job === 'push'
          ? `upload-file = "${lfsObject(prepared.work, oid)}"\noutput = "/dev/null"`
          : `output = "${join(target, oid)}"`
      const headers = Object.entries(action.header ?? {}).map(
        ([name, value]) => `header = "${name}: ${value}"\n`,
      )
      sections.push(`url = "${action.href}"\n${file}\n${headers.join('')}fail\nsilent\nshow-error\n`)
    }
  }
  const config = stage.world.path('curl.conf')
  await writeFile(config, sections.join('next\n'), { mode: 0o600 })
  const args = ['--parallel', '--parallel-immediate', '--parallel-max', '64', '--config', config]
  if (stage.ca !== undefined) args.unshift('--cacert', stage.ca)
  const measured = await stage.measure('curl', args, stage.world.folder, stage.env.plain)
  if (job === 'push') {
    await expectStored(stage, repository, prepared)
    await stage.drop(repository)
  } else {
    for (const { oid, size } of prepared.files)
      if ((await stat(join(target, oid))).size !== size) throw new Error(`curl fetched ${oid} in part`)
  }
  await rm(target, { recursive: true })
  return measured
}

/** A job over loopback against the raw limit. */
export function rawCase(name: string, job: 'push' | 'fetch', set: DataSetName): BenchCase {
  return async ({ runs = 5, stage: open }) => {
    const stage = await open()
    const ratio = RATIOS[`${job} ${set}`]
    const must = { ...mustOf(job, set), ...(ratio === undefined ? {} : { ratio }) }
    const rival = { name: 'curl, signed URLs, 64 at once', run: () => curl(stage, job, set) }
    return contest({ case: name, job, ours: await oursFor(stage, job, 'loopback', set, must), rival, runs })
  }
}
