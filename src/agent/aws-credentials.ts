import { type AwsKeys, type AwsOptions, noKeys } from './aws-keys.ts'
import { fromContainer, fromEnvironment, fromMachine } from './aws-machine.ts'
import { fromProfile } from './aws-profile.ts'

/**
 * Credentials as the AWS tools find them (AWS SDKs and Tools Reference Guide, "Standardized credential providers"): the
 * environment, a profile of the shared files, a container's, the machine's role. Own code, for the SDK's chain is more
 * than the rest of the agent.
 * @throws {TimoneError} `config` when there are none, `credentials_expired` when a sign-in by SSO has ended
 */
export async function findAwsKeys(options: AwsOptions): Promise<AwsKeys> {
  return (
    fromEnvironment(options) ??
    (await fromProfile(options)) ??
    (await fromContainer(options)) ??
    (await fromMachine(options)) ??
    noKeys(
      'no AWS credentials were found: set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role',
    )
  )
}
