import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { testS3 } from '../../test/helpers/s3.ts'
import type { BenchCase } from './bench-case.ts'
import { type Contestant, contest } from './contest.ts'
import type { DataSetName } from './data-set.ts'
import type { Measured, Stage } from './stage.ts'
import { expectStored, mustOf, oursFor } from './transfer.ts'

/** Ratio that must hold against `aws s3 cp`. */
const AWS_RATIO = 1.8

/** The tools as Debian packages them, with the settings that they come with, straight to the bucket: no server, no hash. */
const TOOLS = { aws: '`aws s3 cp --recursive`', s3cmd: '`s3cmd put --recursive`' }

export type Tool = keyof typeof TOOLS

/** The system's program, though another one may come first on PATH. */
const program = (name: string): string => (existsSync(`/usr/bin/${name}`) ? `/usr/bin/${name}` : name)

async function put(stage: Stage, tool: Tool, set: DataSetName): Promise<Measured> {
  const { plain, ...prepared } = await stage.dataSet(set)
  const { region, bucket, credentials } = testS3()
  const repository = stage.newRepository()
  const target = `s3://${bucket}/${stage.prefix(repository)}`
  const env = {
    ...stage.env.plain,
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    AWS_DEFAULT_REGION: region,
    AWS_EC2_METADATA_DISABLED: 'true',
    ...(stage.ca === undefined ? {} : { AWS_CA_BUNDLE: stage.ca }),
  }
  let args: string[]
  if (tool === 'aws') {
    args = ['s3', 'cp', '--recursive', '--only-show-errors', '--endpoint-url', stage.s3Url, plain, target]
  } else {
    const config = stage.world.path('home', 's3cmd')
    const { host } = new URL(stage.s3Url)
    const lines = {
      access_key: credentials.accessKeyId,
      secret_key: credentials.secretAccessKey,
      bucket_location: region,
      host_base: host,
      host_bucket: host,
      use_https: stage.ca === undefined ? 'False' : 'True',
      ca_certs_file: stage.ca ?? '',
    }
    const text = Object.entries(lines).map(([name, value]) => `${name} = ${value}\n`)
    await writeFile(config, `[default]\n${text.join('')}`, { mode: 0o600 })
    args = ['-c', config, 'put', '--recursive', '--quiet', '--no-progress', `${plain}/`, target]
  }
  const measured = await stage.measure(program(tool), args, stage.world.folder, env)
  await expectStored(stage, repository, { ...prepared, plain })
  await stage.drop(repository)
  return measured
}

/** A push over loopback against another tool that copies the same files into the same bucket. */
export function toolCase(name: string, tool: Tool, set: DataSetName): BenchCase {
  return async ({ runs = 5, stage: open }) => {
    const stage = await open()
    const must = { ...mustOf('push', set), ...(tool === 'aws' ? { ratio: AWS_RATIO } : {}) }
    const rival: Contestant = { name: TOOLS[tool], run: () => put(stage, tool, set) }
    return contest({
      case: name,
      job: 'push',
      ours: await oursFor(stage, 'push', 'loopback', set, must),
      rival,
      runs,
    })
  }
}
