import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/**
 * Moves one file once and prints what it took: `timone` with the agent's own upload and download on their defaults,
 * `sdk` with the AWS SDK in the parts that suit it, signed the same way, hashed the same way.
 */
const [way, direction, path] = process.argv.slice(2) as [string, string, string]
const setting = (name: string): string => process.env[`TIMONE_TEST_S3_${name}`] as string
const PART = 16 * 2 ** 20
const PARALLEL = 4
const PREFIX = 'bench/org/repo/'
const { size } = await stat(path)

async function oidOf(): Promise<string> {
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafe(64 * 1024)
  const file = await open(path)
  for (;;) {
    const { bytesRead } = await file.read(buffer)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
  }
  await file.close()
  return hash.digest('hex')
}

async function viaTimone(oid: string): Promise<void> {
  const { HttpClient } = await import('../../src/access/http-client.ts')
  const { Retrier } = await import('../../src/access/retry.ts')
  const { S3Access } = await import('../../src/agent/s3-access.ts')
  const { Progress } = await import('../../src/agent/progress.ts')
  const { PartBuffers } = await import('../../src/agent/part-buffers.ts')
  const { PartLanes } = await import('../../src/agent/part-lanes.ts')
  const { ResumeStore } = await import('../../src/agent/resume-store.ts')
  const { downloadObject } = await import('../../src/agent/download.ts')
  const { uploadObject } = await import('../../src/agent/upload.ts')
  const { nullLogger: log } = await import('../../src/log.ts')
  const { parseOid } = await import('../../src/oid.ts')
  const http = new HttpClient(async () => ({}))
  const retrier = new Retrier({ retries: 2, maxDelay: 1 })
  const held = {
    expiresAt: Date.now() + 3600_000,
    clockOffset: 0,
    answer: {
      driver: 's3' as const,
      endpoint: setting('URL'),
      region: setting('REGION'),
      bucket: setting('BUCKET'),
      prefix: PREFIX,
      force_path_style: true,
      access_key_id: setting('KEY'),
      secret_access_key: setting('SECRET'),
      session_token: '',
      expires_at: '',
      renew: { href: '', token: '', expires_at: '' },
    },
  }
  const access = new S3Access({
    send: http.send,
    retrier,
    credentials: async () => held,
    endpoint: setting('URL'),
    isPresent: async () => false,
    log,
  })
  const progress = new Progress(size, () => true)
  const signal = new AbortController().signal
  const resume = new ResumeStore(`${path}-lfs`)
  if (direction === 'upload') {
    const context = {
      access,
      resume,
      target: 'bench',
      partSize: 8 * 2 ** 20,
      buffers: new PartBuffers(),
      lanes: new PartLanes(16),
      replace: true,
      log,
    }
    await uploadObject(parseOid(oid), size, path, context, progress, signal)
  } else {
    const { StreamGovernors } = await import('../../src/agent/stream-governor.ts')
    const parallelParts = 16
    const governors = new StreamGovernors(parallelParts)
    const context = {
      ...{ access, resume, retrier, log, mode: undefined },
      ...{ source: 'bench', parallelParts, governors },
    }
    const { rm } = await import('node:fs/promises')
    await rm(await downloadObject(parseOid(oid), size, context, progress, signal))
  }
  await http.close()
}

async function viaSdk(oid: string): Promise<void> {
  const sdk = await import('@aws-sdk/client-s3')
  const client = new sdk.S3Client({
    endpoint: setting('URL'),
    region: setting('REGION'),
    forcePathStyle: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    credentials: { accessKeyId: setting('KEY'), secretAccessKey: setting('SECRET') },
  })
  const target = { Bucket: setting('BUCKET'), Key: `${PREFIX}${oid}-sdk` }
  if (direction === 'upload') {
    const file = await open(path)
    const whole = createHash('sha256')
    const { UploadId } = await client.send(new sdk.CreateMultipartUploadCommand(target))
    const count = Math.ceil(size / PART)
    const parts: { PartNumber: number; ETag: string | undefined }[] = []
    const inFlight = new Set<Promise<void>>()
    for (let number = 1; number <= count; number++) {
      const body = Buffer.allocUnsafe(Math.min(PART, size - (number - 1) * PART))
      await file.read(body, 0, body.length, (number - 1) * PART)
      whole.update(body)
      const sending = client
        .send(new sdk.UploadPartCommand({ ...target, UploadId, PartNumber: number, Body: body }))
        .then(({ ETag }) => {
          parts.push({ PartNumber: number, ETag })
          inFlight.delete(sending)
        })
      inFlight.add(sending)
      if (inFlight.size >= PARALLEL) await Promise.race(inFlight)
    }
    await Promise.all(inFlight)
    whole.digest('hex')
    parts.sort((a, b) => a.PartNumber - b.PartNumber)
    await client.send(
      new sdk.CompleteMultipartUploadCommand({ ...target, UploadId, MultipartUpload: { Parts: parts } }),
    )
    await file.close()
  } else {
    const { rm } = await import('node:fs/promises')
    const hash = createHash('sha256')
    const hashing = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk)
        done(null, chunk)
      },
    })
    const { Body } = await client.send(new sdk.GetObjectCommand(target))
    await pipeline(Body as Readable, hashing, createWriteStream(`${path}-sdk`, { flush: true }))
    if (hash.digest('hex') !== oid) throw new Error('other bytes')
    await rm(`${path}-sdk`)
  }
  client.destroy()
}

const oid = await oidOf()
const before = process.cpuUsage()
const started = performance.now()
await (way === 'timone' ? viaTimone(oid) : viaSdk(oid))
const seconds = (performance.now() - started) / 1000
const { user, system } = process.cpuUsage(before)
process.stdout.write(
  JSON.stringify({
    seconds,
    user: user / 1e6,
    system: system / 1e6,
    cpu: (user + system) / 1e6,
    peak: process.resourceUsage().maxRSS / 1024,
  }),
)
