import type { BenchCase } from './bench-case.ts'
import { client } from './client.ts'
import type { DataSetName } from './data-set.ts'
import { hugeObject, manyObjects } from './flat-memory.ts'
import { leaseHit } from './lease-hit.ts'
import { agentMemory, serverMemory } from './memory.ts'
import { overhead } from './overhead.ts'
import { rawCase } from './raw.ts'
import { resumeCase } from './resume.ts'
import { toolCase } from './rivals.ts'
import { start } from './start.ts'
import { storageList } from './storage-list.ts'
import { storagePut } from './storage-put.ts'
import { isRequired, type Job, transferCase } from './transfer.ts'
import { warmCache } from './warm-cache.ts'

/** In the order they run. Those that empty the whole bucket come first; then set by set, as only one is kept. */
export const CASES: Record<string, BenchCase> = {
  start,
  client,
  'agent-memory': agentMemory,
  'server-memory': serverMemory,
  'lease-hit': leaseHit,
  'storage-put': storagePut,
  'storage-list': storageList,
}

for (const set of ['small', '1gib', '8x128mib', 'mixed'] satisfies DataSetName[]) {
  for (const net of ['loopback', 'wan'] as const) {
    for (const job of ['push', 'fetch', 'pull'] satisfies Job[]) {
      const name = `${net}-${job}-${set}`
      CASES[name] = transferCase(name, job, net, set)
    }
  }
  if (set === 'small' || set === '1gib') {
    for (const job of ['push', 'fetch'] as const)
      CASES[`raw-${job}-${set}`] = rawCase(`raw-${job}-${set}`, job, set)
    for (const tool of ['aws', 's3cmd'] as const)
      CASES[`${tool}-push-${set}`] = toolCase(`${tool}-push-${set}`, tool, set)
  }
  if (set === 'small') CASES.overhead = overhead
  if (set === '1gib')
    for (const job of ['push', 'fetch'] as const) CASES[`resume-${job}`] = resumeCase(`resume-${job}`, job)
  if (set === '8x128mib') CASES['wan-pull-8x128mib-cached'] = warmCache
}
CASES['memory-50k'] = manyObjects
CASES['memory-20gib'] = hugeObject

/** Whether a case runs when none is named: those with a figure that must hold, but for the two that take long. */
export const isDefault = (name: string): boolean =>
  name === 'start' ||
  name === 'lease-hit' ||
  isRequired(name) ||
  /^(raw|aws|resume|storage)-|-cached$/.test(name)
