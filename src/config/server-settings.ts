import type { LoginSettings } from './build-login.ts'
import type { GrantSetting } from './grant-setting.ts'
import type { ProviderSettings } from './provider-settings.ts'
import type { ListenAddress } from './setting-types.ts'
import type { TrustSetting } from './trust-setting.ts'

/** Everything that `timone serve` can be told, checked, frozen. Made by `load-settings.ts` only. */
export interface ServerSettings {
  /** pino's name of the lowest level that is logged. */
  readonly logLevel: string
  readonly listen: ListenAddress
  /** Public address, without a slash at the end. */
  readonly url: string
  readonly insecure: boolean
  /** Addresses and networks of proxies that are believed where a request came from. */
  readonly trustedProxies: readonly string[]
  /** Absolute path of the folder for the server's own files. */
  readonly data: string
  readonly tokenSecret: string
  /** Fernet keys: the first encrypts, all decrypt. */
  readonly secretKeys: readonly string[]
  readonly requireScope: boolean
  /** `org/repo` or `org/*`. */
  readonly publicRepositories: readonly string[]
  /** Seconds. */
  readonly objectExpiresIn: number
  /** Bytes that each repository may hold; 0: no bound. */
  readonly quota: number
  /** Of each user; 0: no limit. */
  readonly requestsPerMinute: number
  /** The message broker that asks for users; undefined: none does. */
  readonly amqp?: AmqpSettings
  /** Undefined: programs of this machine alone see the metrics. */
  readonly metricsToken?: string
  readonly trust: readonly TrustSetting[]
  /** Undefined: no sign-in in the browser. */
  readonly login?: LoginSettings
  readonly grants: readonly GrantSetting[]
  readonly signing: 'HS256' | 'EdDSA' | 'RS256'
  readonly github: GitHubSettings
  /** Whose namesakes at GitHub decide on tokens of GitHub. */
  readonly githubRepositories: readonly string[]
  /** Undefined: no GitHub App. */
  readonly githubApp?: GitHubAppSettings
  /** At which users connect accounts of theirs. */
  readonly providers: readonly ProviderSettings[]
  /** Where browsers may be sent back to from there. */
  readonly returnOrigins: readonly string[]
  /** Undefined: no storage for users. */
  readonly remoteStorage?: RemoteStorageSettings
  readonly storage: FileStorageSettings | S3StorageSettings
  /** `sqlite:` and an absolute path, or `postgres://…`, which may hold a password. */
  readonly databaseUrl: string
}

/** GitHub, or a GitHub Enterprise Server. */
export interface GitHubSettings {
  /** Address of its REST API. */
  readonly api: string
}

/** GitHub Apps whose installation tokens are handed out. */
export interface GitHubAppSettings {
  readonly apps: readonly {
    readonly id: string /** Absolute path of a PEM file. */
    readonly privateKey: string
  }[]
  /** Seconds. */
  readonly renewBefore: number
  /** Anyone on this machine may ask. */
  readonly open: boolean
}

/** Where the message broker is, and what it may ask for. */
export interface AmqpSettings {
  /** `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS. */
  readonly url: string
  /** How the password is sent (SASL). */
  readonly mechanism: 'PLAIN' | 'AMQPLAIN'
  /** File with the certificates that TLS trusts; undefined: those of Node.js. */
  readonly ca?: string
  /** Requests that are worked on at once. */
  readonly prefetch: number
  /** Do answers to `get` hold access tokens? */
  readonly exposeTokens: boolean
}

/** Storage of users for their apps. */
export interface RemoteStorageSettings {
  /** Absolute path. */
  readonly root: string
  /** Documents of this many bytes and more are objects of Git LFS. */
  readonly large: number
  /** Bytes of each user. */
  readonly quota: number
  /** Origin that serves the storage and nothing else. */
  readonly origin?: string
}

/** Objects in a folder of this machine. */
export interface FileStorageSettings {
  readonly driver: 'file'
  /** Absolute path. */
  readonly root: string
}

/** Objects in a bucket. */
export interface S3StorageSettings {
  readonly driver: 's3'
  /** Undefined: AWS, by region. */
  readonly url?: string
  readonly region: string
  readonly bucket: string
  /** Empty, or ends with `/`. */
  readonly prefix: string
  /** Undefined: found as the AWS tools do (environment, profile, instance role). */
  readonly credentials?: { readonly accessKeyId: string; readonly secretAccessKey: string }
  /** Set: STS AssumeRole with a session policy; undefined: signed URLs. */
  readonly roleArn?: string
  readonly stsUrl?: string
  readonly pathStyle: boolean
  readonly checksums: 'when_required' | 'when_supported'
}
