// Where Chainlink's runtime enters the workflow.
import { Runner } from "@chainlink/cre-sdk";
import { type Config, configSchema, workflow } from "./workflow.ts";

export async function main() {
  const runner = await Runner.newRunner<Config>({ configSchema });
  await runner.run(workflow);
}
